"""The wheel ships conf/ as ramen/conf, where an installed ramen finds it. All else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """Copies the config groups beside the modules; a clone's own conf/ serves an editable installation."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib, "ramen", "conf"), ignore_errors=True)
            shutil.copytree("conf", Path(self.build_lib, "ramen", "conf"))


setup(cmdclass={"build_py": BuildWithConf})
