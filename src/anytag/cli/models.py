"""`anytag models`: what is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click


@click.command("models", short_help="List installed models.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(format_: str) -> None:
    """List the models that are installed, with their size, licence and metrics."""
    from anytag.errors import ModelError
    from anytag.models.hub import describe, installed

    rows: list[dict[str, Any]] = []
    for folder in installed():
        try:
            rows.append({**asdict(describe(folder)), "path": str(folder), "error": None})
        except ModelError as error:
            rows.append({"name": folder.name, "path": str(folder), "error": str(error)})
    if format_ == "json":
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_text(row) for row in rows) or "No models are installed.")


def _text(row: Mapping[str, Any]) -> str:
    from anytag.models.page import flat_metrics

    if row["error"]:
        return f"{row['name']}\n  cannot be used: {row['error']}"
    facts = {
        "size": f"{row['bytes'] / 1e6:.1f} MB",
        "licence": row["licence"],
        "folder": Path(row["path"]),
        **{name: _figure(value) for name, value in flat_metrics(row["metrics"])},
    }
    width = max(map(len, facts))
    return "\n".join([row["name"], *(f"  {name:<{width}}  {value}" for name, value in facts.items())])


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
