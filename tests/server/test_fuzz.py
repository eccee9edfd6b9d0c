"""Generated requests: whatever comes, no answer is a 5xx, and answers are as the description says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from anytag.server.app import create_app
from anytag.server.settings import Settings
from tests.tiny import make_tiny_model

CHECKS = [not_a_server_error, response_schema_conformance, status_code_conformance]


def test_no_request_breaks_the_server(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    (tmp_path / "photos").mkdir()
    app = create_app(
        Settings(
            model=str(model),
            workers=1,
            hosts=("testserver",),
            has_library=True,
            library=tmp_path / "library.db",
            label_studio=(tmp_path / "photos",),
        )
    )
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy())
        def breaks_nothing(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(checks=CHECKS, timeout=60)

        breaks_nothing()
