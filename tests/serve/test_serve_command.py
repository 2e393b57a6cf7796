"""The command ``skmatch serve`` in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest
from served import EVENTS, make_pipe

from skmatch import persistence
from skmatch.__main__ import main
from skmatch.export import to_onnx


@pytest.fixture(autouse=True)
def wait_policy(monkeypatch):
    """Unset the variable that the command sets; after a test it is as before."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # recorded as absent, if it was
    monkeypatch.delenv("OMP_WAIT_POLICY")


@contextmanager
def serving(path, *options):
    """Start the command on a free port; yield its process, its port and a reader of its log."""
    command = [sys.executable, "-m", "skmatch", "serve", str(path), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:

        def wait_for(event):
            for line in process.stderr:
                if (record := json.loads(line))["event"] == event:
                    return record
            pytest.fail(f"the log has no {event!r}")

        port = wait_for("started")["port"]
        yield process, port, wait_for
        if process.poll() is None:
            process.terminate()


def send(port, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


# Waits for the body, which never comes.
STALLING = (
    b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
def test_it_serves_observes_reloads_and_stops(tmp_path):
    path = tmp_path / "pipe.joblib"
    persistence.save(make_pipe().fit(EVENTS), path)
    with serving(path, "--observe") as (process, port, wait_for):
        before = send(port, "/recommend", {"user": 2})
        assert before["items"] == ["jam"]
        event = {"user": 2, "item": "jam", "time": 10}
        assert send(port, "/observe", {"events": [event]})["observed"] == 1
        assert send(port, "/recommend", {"user": 2})["items"] == []
        persistence.save(make_pipe().fit(EVENTS[:5]), path)
        os.kill(process.pid, signal.SIGHUP)
        reloaded = wait_for("reloaded")
        assert reloaded["observed_events_dropped"] == 1
        after = send(port, "/recommend", {"user": 2})
        assert after["items"] == ["jam"]
        assert after["model"] == reloaded["model"] != before["model"]
        with socket.create_connection(("127.0.0.1", port), timeout=60) as stalled:
            stalled.sendall(STALLING)
            process.terminate()
            wait_for("stopped")  # although a request is open
            process.wait(timeout=60)


def test_wrong_arguments_name_the_remedy(tmp_path, capsys):
    path = tmp_path / "pipe.joblib"
    persistence.save(make_pipe().fit(EVENTS), path)
    text = tmp_path / "text"
    text.write_text("no model")
    for arguments, message in (
        ([tmp_path / "missing"], "No such file"),
        ([text], "not a joblib"),
        ([path, "--port", "70000"], "from 0 to 65535"),
        ([path, "--queue", "0"], "at least 1"),
        ([path, "--timeout", "0"], "more than 0"),
        ([path, "--host", "203.0.113.1", "--port", "0"], "choose others"),
    ):
        with pytest.raises(SystemExit):
            main(["serve", *map(str, arguments)])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_waiting_threads_sleep_unless_told_otherwise(given, tmp_path, monkeypatch):
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    with pytest.raises(SystemExit):
        main(["serve", str(tmp_path / "missing.joblib")])
    assert os.environ["OMP_WAIT_POLICY"] == (given or "PASSIVE")


def test_an_exported_model_is_served_without_torch_scikit_learn_and_pandas(tmp_path):
    pytest.importorskip("onnxruntime")
    to_onnx(make_pipe().fit(EVENTS), tmp_path / "model")
    program = (
        "import sys, asyncio\n"
        "from pathlib import Path\n"
        "import skmatch.__main__, skmatch.serve.__main__\n"
        "from skmatch.serve._app import Service\n"
        "from skmatch.serve._model import load_model\n"
        "service = Service(lambda: load_model(Path(sys.argv[1])))\n"
        "assert service.make_app()\n"
        "print(*{'torch', 'sklearn', 'pandas'} & {name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "model")]
    assert not subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    with pytest.raises(SystemExit):
        main(["serve", str(tmp_path / "model"), "--observe", "--port", "0"])
