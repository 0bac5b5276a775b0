"""TLS among scheduler, workers and clients: a certificate for each command, and what is refused without one.

Whoever can speak to a Dask scheduler or worker can run code as its user. So what a run starts speaks TLS, and
both sides must show the certificate of that run: its key lies where nobody else can read it, until the run
ends. A scheduler of the user's own follows Dask's settings, `distributed.comm.tls`.
"""

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from diffusegen_core.config.environment import environment
from diffusegen_core.config.errors import UserError
from diffusegen_core.store import files

INSECURE = "DIFFUSEGEN_INSECURE"  # the environment variable that allows plain TCP
PLACE = f"{files.WRITING}tls-"  # prefix of the folder of a certificate
# With these names, leftovers are removed by the run's next holder, whether or not it starts workers.
CERTIFICATE, KEY = f"{files.WRITING}certificate.pem", f"{files.WRITING}key.pem"
SETTINGS = "distributed.comm.tls"
ROLES = ("scheduler", "worker", "client")
ENCRYPTED = ("tls", "wss", "inproc")  # Dask's protocols that are encrypted, or stay in one process
SKEW, HELD = timedelta(days=1), timedelta(days=365)  # validity before and after a certificate is made
OTHERS = stat.S_IRWXG | stat.S_IRWXO


@contextlib.contextmanager
def temporary(folder: Path, shared: bool) -> Iterator[dict[str, str]]:
    """Give Dask, in this process and in those that it starts, a certificate of its own while this lasts.

    The certificate and its key lie in a folder within `folder` that only the user can open; or, if others
    cannot be kept out there, in the system's temporary folder, unless they must be `shared` with other
    machines. Gives the environment variables by which other processes find them. Raises UserError if they
    cannot be kept safely.
    """
    import dask
    _clear(folder)
    place = _private_folder(folder, shared)
    try:
        config = _written(place)
        variables = {_variable(name): str(value) for name, value in config.items()}
        with dask.config.set(config), environment(variables):
            yield variables
    finally:
        _remove(place)


def refuse_plain(address: str) -> None:
    """Raise UserError for an unencrypted address that others can reach, unless INSECURE is set."""
    from distributed.comm.addressing import parse_address, parse_host_port
    scheme, location = parse_address(address)
    if scheme in ENCRYPTED or os.environ.get(INSECURE) == "1":
        return
    try:
        host = parse_host_port(location, 0)[0]
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, ValueError):  # unknown, so it cannot be shown to be this machine
        addresses = set()
    if not addresses or not all(ip_address(one.partition("%")[0]).is_loopback for one in addresses):
        raise UserError(f"{address} is not encrypted: whoever can reach it can run code as you. Give the "
                        f"scheduler and its workers certificates, by Dask's settings {SETTINGS}, or, on a "
                        f"network that you trust, run with --insecure (in a notebook: {INSECURE}=1).")


def _private_folder(folder: Path, shared: bool) -> Path:
    """A new folder that only the user can open, and that nobody else can replace."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if reason := _open_to_others(folder):
            return _elsewhere(folder, shared, reason)
        place = Path(tempfile.mkdtemp(prefix=PLACE, dir=folder))  # its mode is 0700, if there are modes
        if not place.stat().st_mode & OTHERS:
            return place
        place.rmdir()
    except OSError as error:
        raise _unfit(folder, str(error.strerror)) from None
    return _elsewhere(folder, shared, "its file system lets everybody read it. Choose a run_dir on "
                                      "another file system")


def _open_to_others(folder: Path) -> str:
    """Why others could replace what lies in a folder; "" if they cannot."""
    there = folder.stat()
    if there.st_uid not in (os.geteuid(), 0):
        return "it belongs to somebody else. Choose a run_dir of your own"
    if there.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others can write in it. Remove that permission (chmod go-w), or choose another run_dir"
    return ""


def _elsewhere(folder: Path, shared: bool, reason: str) -> Path:
    """A folder of this machine instead. Raises UserError if other machines need it as well."""
    if shared:
        raise _unfit(folder, reason)
    return Path(tempfile.mkdtemp(prefix="diffusegen-tls-"))


def _written(place: Path) -> dict[str, object]:
    """Write a new certificate and its key; return Dask's settings that name them."""
    try:
        for name, content in zip((CERTIFICATE, KEY), _made(), strict=True):
            with os.fdopen(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL,
                                   files.PRIVATE), "wb") as file:
                file.write(content)
    except OSError as error:
        raise _unfit(place.parent, str(error.strerror)) from None
    own = {"cert": str(place / CERTIFICATE), "key": str(place / KEY)}
    return {"distributed.comm.require-encryption": True, f"{SETTINGS}.ca-file": own["cert"],
            **{f"{SETTINGS}.{role}.{part}": path for role in ROLES for part, path in own.items()}}


def _made() -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, as PEM. It is valid from a day ago, because the clocks of other
    machines may be behind."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "diffusegen")])
    certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
                   .serial_number(x509.random_serial_number()).not_valid_before(now - SKEW)
                   .not_valid_after(now + HELD).sign(key, hashes.SHA256()))
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _unfit(folder: Path, reason: str) -> UserError:
    return UserError(f"{folder} cannot hold the key of the workers' connections: {reason}.")


def _variable(setting: str) -> str:
    """The environment variable of one of Dask's settings."""
    return "DASK_" + setting.replace(".", "__").replace("-", "_").upper()


def _clear(folder: Path) -> None:
    """Remove what killed commands have left: certificates of schedulers that are gone."""
    with contextlib.suppress(OSError):
        for place in folder.glob(f"{PLACE}*"):
            if place.is_dir() and not place.is_symlink():
                _remove(place)


def _remove(place: Path) -> None:
    """Remove the program's own two files, and the folder if nothing else is there."""
    with contextlib.suppress(OSError):
        for name in (CERTIFICATE, KEY):
            (place / name).unlink(missing_ok=True)
        place.rmdir()
