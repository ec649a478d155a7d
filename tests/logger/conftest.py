"""The file of W&B's client for an offline run, read without the client: all that `wandb sync` would send."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BLOCK, HEADER = 32768, 7
FULL, LAST = 1, 4


def _records(path: Path) -> list[Any]:
    """Its records: chunks of a LevelDB log (crc32, length, kind) behind seven bytes of header, protobuf inside."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole, records = HEADER, b"", []
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (FULL, LAST):
            records.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return records


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _read_offline(path: Path) -> dict[str, Any]:
    import wandb

    wandb.teardown()  # the last records are written by a process of the client, which need not be done when a run is
    content: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "metrics": {}, "exit_code": None}
    for record in _records(path):
        match record.WhichOneof("record_type"):
            case "run":
                content |= {
                    "group": record.run.run_group,
                    "tags": list(record.run.tags),
                    "name": record.run.display_name,
                }
                content["config"] |= _items(record.run.config.update)
            case "history":
                content["history"].append(_items(record.history.item))
            case "summary":
                content["summary"] |= _items(record.summary.update)
            case "metric":
                content["metrics"][record.metric.name or record.metric.glob_name] = record.metric.step_metric
            case "exit":
                content["exit_code"] = record.exit.exit_code
    return content


@pytest.fixture(scope="session")
def read_offline() -> Callable[[Path], dict[str, Any]]:
    """read_offline(file): config, history, summary, group, tags, name, metrics, exit code (None of a run that did not end)."""
    return _read_offline
