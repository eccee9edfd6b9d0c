"""An S3 server on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch
from uuid import uuid4

import fsspec
from moto.server import ThreadedMotoServer


@contextmanager
def s3_bucket() -> Iterator[str]:
    """The URL of an empty bucket; the endpoint is told as users tell theirs, by the environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "nobody knows",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with patch.dict(os.environ, told):
            fsspec.get_filesystem_class("s3").clear_instance_cache()  # of whoever asked before
            name = f"bucket-{uuid4().hex}"  # all servers of a process share what they hold
            fsspec.filesystem("s3").mkdir(name)
            yield f"s3://{name}"
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        server.stop()
