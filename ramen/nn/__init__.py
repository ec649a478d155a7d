"""The GPT: assembles components from factories and knows no method by name."""
