"""The cluster's certificates: two authorities, and one identity for each component.

The authority for the aggregation layer (front proxy) is not the one for clients. The holder of a front-proxy
certificate may claim any user name, so an ordinary client certificate must not count as one.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from testbed.process import run

DAYS = "365"


@dataclass(frozen=True, slots=True)
class Authority:
    """The files of a certificate authority, PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate's subject, and the names it serves under (`DNS:…`, `IP:…`). Kubernetes takes O for the group."""

    user: str
    group: str = ""
    serves: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """In openssl's syntax."""
        # A user name like system:node:node1 holds no slash, so openssl's own syntax is safe.
        return f"/O={self.group}/CN={self.user}" if self.group else f"/CN={self.user}"


def authority(folder: Path, name: str) -> Authority:
    """Writes `name`.crt and `name`.key of a new authority into `folder`."""
    made = Authority(folder / f"{name}.crt", folder / f"{name}.key")
    extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"]
    _request(made.certificate, made.key, f"/CN=sfc-testbed-{name}", extensions)
    return made


def certificate(signer: Authority, folder: Path, name: str, identity: Identity) -> None:
    """Writes `name`.crt and `name`.key into `folder`: a serving certificate too where the identity has names."""
    usage = "serverAuth,clientAuth" if identity.serves else "clientAuth"
    extensions = [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        f"extendedKeyUsage={usage}",
    ]
    if identity.serves:
        extensions.append("subjectAltName=" + ",".join(identity.serves))
    _request(folder / f"{name}.crt", folder / f"{name}.key", identity.subject, extensions, signer)


CONFIGURATION = """\
[req]
distinguished_name = name
x509_extensions = extensions
[name]
[extensions]
"""


def _request(
    certificate: Path, key: Path, subject: str, extensions: list[str], signer: Authority | None = None
) -> None:
    """A new key and its certificate, signed by `signer` or by itself."""
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", str(key)]
    signed_by = ["-CA", str(signer.certificate), "-CAkey", str(signer.key)] if signer else []
    command = ["openssl", "req", "-x509", "-config", "/dev/stdin", "-subj", subject, "-days", DAYS]
    command += ["-out", str(certificate)]
    run(*command, *new_key, *signed_by, stdin=CONFIGURATION + "\n".join(extensions) + "\n")


def service_account_keys(folder: Path) -> None:
    """Writes the pair that signs and checks service account tokens: `service-accounts.key` and `.pub`."""
    key = folder / "service-accounts.key"
    run("openssl", "genrsa", "-out", key, "2048")
    run("openssl", "rsa", "-in", key, "-pubout", "-out", key.with_suffix(".pub"))


def kubeconfig(signer: Authority, folder: Path, name: str, server: str) -> str:
    """A kubeconfig in JSON, which is YAML, for the identity `name` in `folder`. Keys and certificates are inside."""
    user = {
        "client-certificate-data": _inline(folder / f"{name}.crt"),
        "client-key-data": _inline(folder / f"{name}.key"),
    }
    cluster = {"server": server, "certificate-authority-data": _inline(signer.certificate)}
    context = {"cluster": "sfc-testbed", "user": name}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sfc-testbed", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "sfc-testbed", "context": context}],
            "current-context": "sfc-testbed",
        },
        indent=1,
    )


def _inline(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
