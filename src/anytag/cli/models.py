"""`anytag models`: list installed models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click


@click.command("models", short_help="List installed models.")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(name: str | None, format_: str) -> None:
    """List the installed models; with NAME, a model or a folder, show its whole card."""
    from anytag.models.registry import installed, resolve

    folders = installed() if name is None else [resolve(name)]
    rows = [_read(folder, strict=name is not None) for folder in folders]
    if format_ == "json":
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    show = _summary if name is None else _everything
    click.echo("\n".join(map(show, rows)) or "No models are installed.")


def _read(folder: Path, *, strict: bool) -> dict[str, Any]:
    """Read the card of a folder; an invalid one has an error, or raises it if `strict`."""
    from anytag.errors import ModelError
    from anytag.models.registry import describe

    try:
        return {**asdict(describe(folder)), "path": str(folder), "error": None}
    except ModelError as error:
        if strict:
            raise
        return {"name": folder.name, "path": str(folder), "error": str(error)}


def _summary(row: Mapping[str, Any]) -> str:
    """The main facts with top-level metrics only, and how to see the others."""
    if row["error"]:
        return f"{row['name']}\n  cannot be used: {row['error']}"
    single = {key: value for key, value in row["metrics"].items() if not isinstance(value, Mapping)}
    more = {"figures": f"see anytag models {row['name']}"} if len(single) < len(row["metrics"]) else {}
    return _table(row["name"], _facts(row) | {key: _figure(value) for key, value in single.items()} | more)


def _everything(row: Mapping[str, Any]) -> str:
    from anytag.models.model_card import flat_metrics

    facts = {key.replace("_", " "): row[key] for key in ("description", "training_data", "thresholds")}
    figures = {key: _figure(value) for key, value in flat_metrics(row["metrics"])}
    return _table(row["name"], _facts(row) | facts | figures)


def _facts(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "family": f"{row['family']}, version {row['version']}",
        "size": f"{row['bytes'] / 1e6:.1f} MB",
        "licence": row["licence"],
        "folder": row["path"],
    }


def _table(name: str, facts: Mapping[str, str]) -> str:
    width = max(map(len, facts))
    return "\n".join([name, *(f"  {key:<{width}}  {value}" for key, value in facts.items())])


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
