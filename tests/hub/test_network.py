"""Mirrors, proxies, private certificates and no network at all, through the real clients."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import ssl
import subprocess
import sys

import pytest

from arriero.hub import store
from tests.conftest import ROWS
from tests.hub.hubs import LoopbackHub, download

# stands in for the network in every Python process of a command: whoever would use it is named and refused
GUARD = """
import os, socket, sys
def guard(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        family = getattr(arguments[0], "family", None)
        if family != socket.AF_UNIX:
            with open(os.environ["GUARD_LOG"], "a") as log:
                print(event, arguments[1:], file=log)
            raise OSError(f"{event} while offline")
sys.addaudithook(guard)
"""


@pytest.fixture
def hub_server(model_dir):
    server = LoopbackHub(model_dir)
    yield server
    server.close()


@pytest.mark.parametrize("source", ["huggingface", pytest.param("modelscope", marks=pytest.mark.slow)])
def test_a_proxy_is_used_for_a_mirror(hub_server, tmp_path, source):
    """The hub here is the proxy: it is asked for whole addresses, of a mirror that no name server knows."""
    mirror = "http://mirror.invalid"
    proxied = {"HTTP_PROXY": hub_server.url, "http_proxy": hub_server.url, "NO_PROXY": "", "no_proxy": ""}
    code, _, errors = download(tmp_path, mirror, "owner/name", "--source", source, environment=proxied)
    assert code == 0, errors
    assert "model.safetensors" in hub_server.served


@pytest.fixture
def certificates(tmp_path):
    """A private CA's certificate, and the server's certificate and key, for 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file, secret = tmp_path / "ca.pem", tmp_path / "key.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return file, secret


@pytest.mark.parametrize(
    ("source", "variable"),
    [
        ("huggingface", "REQUESTS_CA_BUNDLE"),
        ("modelscope", "SSL_CERT_FILE"),
        pytest.param("huggingface", "SSL_CERT_FILE", marks=pytest.mark.slow),
        pytest.param("modelscope", "REQUESTS_CA_BUNDLE", marks=pytest.mark.slow),
    ],
)
def test_a_private_ca_counts_for_both_clients_by_either_name(hub_server, tmp_path, certificates, source, variable):
    """Each client knew only one of the two variables, so one hub worked and the other did not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates)
    hub_server.socket = context.wrap_socket(hub_server.socket, server_side=True)
    url = hub_server.url.replace("http:", "https:")
    trusted = {"SSL_CERT_FILE": "", "REQUESTS_CA_BUNDLE": "", variable: str(certificates[0])}
    code, _, errors = download(tmp_path, url, "owner/name", "--source", source, environment=trusted)
    assert code == 0, errors


@pytest.fixture
def offline(tmp_path, model_dir):
    """Runs commands with a model on disk under HF_HUB_OFFLINE; returns what they tried of the network."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    path = shutil.copytree(model_dir, tmp_path / "home" / "models" / "owner--name")
    store.write_manifest(path, name=path.name, source="huggingface", revision="abc")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    log = tmp_path / "sockets"
    environment = {
        **os.environ,
        "ARRIERO_HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "GUARD_LOG": str(log),
        "PYTHONPATH": os.pathsep.join(
            [str(tmp_path / "guard"), *filter(None, [os.environ.get("PYTHONPATH")]), *sys.path]
        ),
    }

    def run(*arguments, **more):
        command = [sys.executable, "-m", "arriero.cli", *arguments]
        variables = {**environment, **more}
        done = subprocess.run(
            command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
        )
        return done, log.read_text() if log.exists() else ""

    return run


def test_the_guard_sees_who_uses_the_network(offline):
    done, tried = offline("download", "nobody/nothing", HF_HUB_OFFLINE="")
    assert done.returncode == 7, done.stderr
    assert "socket." in tried
    done, again = offline("download", "nobody/nothing")
    assert done.returncode == 7, done.stderr
    assert again == tried, "nothing more"


@pytest.mark.parametrize(
    "command",
    [
        "download owner/name",
        "ask hello --model owner/name --engine transformers --max-new-tokens 2",
        *(
            pytest.param(command, marks=pytest.mark.slow)
            for command in (
                "ask hello --model owner/name --max-new-tokens 2",
                "models verify owner/name",
                "inspect rows.json --model owner/name",
                "evaluate rows.json --model owner/name",
                "train rows.json --model owner/name --output run --epochs 1",
                "doctor",
            )
        ),
    ],
)
def test_offline_a_command_whose_model_is_on_disk_uses_no_socket(offline, command):
    done, tried = offline(*command.split())
    assert tried == ""
    assert done.returncode == 0, done.stderr
