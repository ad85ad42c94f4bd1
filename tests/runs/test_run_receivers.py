"""What a run tells the world outside: messages when its outcome changes, and outputs in an object store."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from erpkit.errors import UsageError
from erpkit.runs import open_notebook, run_notebook
from tests.tiny import write_notebook

pytestmark = pytest.mark.usefixtures("warm_runs")


@pytest.fixture
def receiver() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A web server that keeps the messages that it gets."""
    messages: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, messages
        server.shutdown()


def test_a_message_is_sent_when_the_outcome_changes_and_at_no_other_time(
    receiver: tuple[int, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, messages = receiver
    monkeypatch.setenv("ERPKIT_NOTIFY", "env:CHAT")
    monkeypatch.setenv("CHAT", f"json://me:hunter22@127.0.0.1:{port}/hook")
    path = tmp_path / "probe.ipynb"
    results = []
    for source in ("1 / 0", "2 / 0", "1 / n"):  # the same notebook, edited from run to run
        write_notebook(path, source, parameters="n: int = 1  # divisor")
        results.append(run_notebook(open_notebook(str(path)), {}, tmp_path / "runs"))
    assert [result.outcome for result in results] == ["failed", "failed", "ok"]
    assert [result.problems for result in results] == [()] * 3
    assert [message["title"] for message in messages] == ["probe: failed", "probe: ok, was failed"]
    assert "ZeroDivisionError" in messages[0]["message"]
    assert f"report {results[0].report}" in messages[0]["message"]
    assert not any("hunter22" in file.read_text() for file in (tmp_path / "runs").iterdir())


def test_a_receiver_that_does_not_answer_is_one_line_beside_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERPKIT_NOTIFY", "json://me:hunter22@127.0.0.1:1/hook")
    result = run_notebook(open_notebook(str(write_notebook(tmp_path / "fails.ipynb", "1 / 0"))), {}, tmp_path / "runs")
    assert (result.outcome, result.problems) == ("failed", ("ERPKIT_NOTIFY: a receiver did not accept the message",))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a server that speaks S3, with a bucket `runs` in it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-c", "from moto.server import main; main()", "-p", url.rpartition(":")[2]]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not _made(f"{url}/runs"):
            assert time.monotonic() < deadline, "the server of the object store did not start"
            time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        server.wait()


def _made(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="PUT")) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


_WRITES = "import sys; sys.stdout.write('written')"


def test_outputs_go_to_an_object_store_and_a_run_without_a_database_says_that_it_is_not_recorded(
    bucket: str, tmp_path: Path
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hunter22", "AWS_DEFAULT_REGION": "us-east-1"}
    path = write_notebook(tmp_path / "probe.ipynb", _WRITES)
    code = "from erpkit.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "run", str(path), "--output", "s3://runs/nightly/", "--json"],
        env=os.environ | keys | {"BOTO3_ENDPOINT_URL": bucket, "ERPKIT_DATABASE": "host=127.0.0.1 port=1 dbname=erp user=me"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert done.stderr.startswith(
        "target: not reached\nnote: the run is not recorded: cannot connect to 127.0.0.1:1/erp/me: "
    )
    assert len(done.stderr.splitlines()) == 2
    assert result["output"].startswith("s3://runs/nightly/probe-2")
    client = boto3.client("s3", endpoint_url=bucket, aws_access_key_id="key", aws_secret_access_key="hunter22")
    for place, text in ((result["output"], '"written"'), (result["report"], "<title>probe</title>")):
        got = client.get_object(Bucket="runs", Key=place.removeprefix("s3://runs/"))
        assert text in got["Body"].read().decode()


def test_a_bucket_that_is_not_there_is_refused_before_a_kernel_starts(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BOTO3_ENDPOINT_URL", bucket)
    monkeypatch.setattr("papermill.s3.S3.s3_session", (None, None, None))
    path = write_notebook(tmp_path / "probe.ipynb", _WRITES)
    with pytest.raises(UsageError, match=r"the output s3://gone/probe-\S+ cannot be written: .*NoSuchBucket"):
        run_notebook(open_notebook(str(path)), {}, "s3://gone")
