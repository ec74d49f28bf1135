"""Certificates of an authority of our own."""

import shutil
import subprocess
from pathlib import Path

import pytest

# What newer versions of Python and OpenSSL want to see in a certificate.
KEY_USAGE = "keyUsage=critical,keyCertSign,cRLSign"
EXTENSIONS = """\
subjectAltName=DNS:localhost,IP:127.0.0.1
basicConstraints=CA:FALSE
keyUsage=digitalSignature,keyEncipherment
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""


def certificates(folder: Path) -> None:
    """Makes an authority, and a server's and a client's certificate of it."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes", "-keyout")
    openssl(
        "req", "-x509", *new, "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "2", "-addext", KEY_USAGE
    )
    (folder / "san").write_text(EXTENSIONS)
    for name in ("server", "client"):
        openssl("req", *new, f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.pem", "-days", "2")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-extfile", "san")
