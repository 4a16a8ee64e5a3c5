"""``prernn serve`` as a process: it starts, is stopped, is killed and comes back."""

import logging
import signal

import httpx
import pytest

import prernn
from prernn import client
from prernn.commands.main import main
from served import jpeg, served
from server_process import process, saved_network
from streamed_networks import network, pictures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved_network(tmp_path_factory.mktemp("run"))[0]


def answers_what_waits_when_told_to_stop(address, server):
    with client.connect(f"ws://{address}/stream", drop="none") as stream:
        for picture in pictures(10):
            stream.send(picture)
        stream.receive()
        server.send_signal(signal.SIGTERM)
        answers = [stream.receive()]
        while answers[-1]["type"] != "end":
            answers.append(stream.receive())
        assert answers[-1]["answered"] == answers[-1]["received"]
        assert server.wait(20) == 0
        assert server.stderr.read() == ""


def test_killed_and_started_again_streams_begin_at_zero_and_say_so(checkpoint):
    """The second one is told to stop in the end: each start takes seconds."""
    shown = [jpeg(picture) for picture in pictures(4)]
    with process(checkpoint) as (address, server):
        port = int(address.rpartition(":")[2])
        with client.connect(f"ws://{address}/stream") as stream:
            first = [stream.ask(data)["rows"][0]["probability"] for data in shown]
            server.kill()
            with pytest.raises(ConnectionError, match="has closed the connection"):
                stream.receive(20)
    with process(checkpoint, port=port) as (address, server):
        with client.connect(f"ws://{address}/stream") as stream:
            assert stream.started["from"] == "zero"
            assert [stream.ask(data)["rows"][0]["probability"] for data in shown] == pytest.approx(first, abs=2e-4)
        answers_what_waits_when_told_to_stop(address, server)


@pytest.mark.slow
def test_tls_and_a_token(checkpoint, tmp_path):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    key, certificate, root = tmp_path / "key.pem", tmp_path / "certificate.pem", tmp_path / "root.pem"
    own.private_key_pem.write_to_path(key)
    own.cert_chain_pems[0].write_to_path(certificate)
    authority.cert_pem.write_to_path(root)
    options = ["--certificate", str(certificate), "--key", str(key), "--token", "sesame"]
    with process(checkpoint, *options) as (address, _):
        import ssl

        trusting = ssl.create_default_context(cafile=root)
        assert httpx.get(f"https://{address}/healthz", verify=trusting).json()["status"] == "ok"
        assert httpx.get(f"https://{address}/metrics", verify=trusting).status_code == 401
        url, shown = f"wss://{address}/stream", jpeg(pictures(1)[0])
        with client.connect(url, token="sesame", certificate=root) as stream:
            assert stream.ask(shown)["type"] == "frame"
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"), client.connect(url, token="sesame"):
            pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: expected a --token if other machines can connect, got none"),
        (["--certificate", "none.pem"], "--certificate: none.pem: no such file"),
        (["--idle", "0"], "limit idle: expected a number above 0"),
        (["--queue", "0"], "limit queue: expected a whole number of at least 1"),
        (["--decoder", "beam"], "task action: expected options among events, got decoder"),
        (["--engine", "steam"], "expected engine to be one of"),
        (["--port", "70000"], "--port: expected 0 to 65535, got 70000"),
    ],
)
def test_mistakes_are_one_line(checkpoint, options, message, capsys):
    assert main(["serve", str(checkpoint), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_port_that_is_taken_is_one_line(checkpoint, capsys):
    with served(network().float()) as (address, _):
        port = address.rpartition(":")[2]
        assert main(["serve", str(checkpoint), "--port", port]) == 2
        error = capsys.readouterr().err
        assert "in use" in error
        assert len(error.splitlines()) == 1


def test_the_logging_of_the_program_around_it_stays():
    """uvicorn's own configuration would close all handlers, and with TensorBoard's the stream that it had at first."""

    class Handler(logging.StreamHandler):
        closed = False

        def close(self):
            self.closed = True

    handler = Handler()
    with served(network().float()):
        assert not handler.closed


def test_a_network_of_words_is_none_of_pictures(tmp_path, capsys):
    net = prernn.traditional(prernn.backbone("words", words=9, size=6), cell="gru", hidden_size=[5])
    prernn.save(net, tmp_path / "words.safetensors")
    assert main(["serve", str(tmp_path / "words.safetensors")]) == 2
    assert "expected a network of pictures" in capsys.readouterr().err
