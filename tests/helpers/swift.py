"""OpenStack Swift on this machine: four real servers on free ports that speak S3, check signatures and know users."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import s3fs

from tests.helpers.ports import free_port, wait_for_port
from tests.helpers.s3 import CREDENTIALS

OWNER = ("test:tester", "testing")
STRANGER = ("test:stranger", "passing")
"""Access key and secret: who may do everything, and a user of the same account without any right."""

INSTALL = "python -m venv DIR && DIR/bin/pip install -c constraints.txt swift==2.38.3, then SWIFT_BIN=DIR/bin"

_SERVER = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
workers = 0
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
log_level = ERROR
[pipeline:main]
pipeline = {pipeline}
[app:{name}-server]
use = egg:swift#{name}
"""

FILTERS = {
    **{"catch_errors": "", "listing_formats": "", "bulk": "", "s3api": "location = us-east-1\n"},
    "tempauth": "user_test_tester = testing .admin\nuser_test_stranger = passing\n",
    **{"copy": "", "slo": "", "versioned_writes": "", "symlink": ""},
}
"""What a request to the proxy passes, in order, and the options of each."""


def programs() -> Path | None:
    """The folder of Swift's programs, from SWIFT_BIN or the PATH; None where there are none."""
    named = os.environ.get("SWIFT_BIN")
    found = shutil.which("swift-proxy-server", path=named) if named else shutil.which("swift-proxy-server")
    return Path(found).parent if found else None


class Swift:
    """Account, container, object and proxy server, one process each, over one folder. They end with `close`."""

    def __init__(self, folder: Path) -> None:
        found = programs()
        assert found is not None, INSTALL
        self.folder, self._programs = folder, found
        (folder / "devices" / "d1").mkdir(parents=True)
        (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = of-a-test\n")
        ports = {name: free_port() for name in ("account", "container", "object", "proxy")}
        self.port = ports["proxy"]
        self._processes: list[subprocess.Popen[bytes]] = []
        for name in ("account", "container", "object"):
            self._make_ring(name, ports[name])
        try:
            for name, port in ports.items():
                self._start(name, port)
            for port in ports.values():
                wait_for_port(port)
        except BaseException:
            self.close()
            raise

    def environment(self, user: tuple[str, str] = OWNER) -> dict[str, str]:
        """Variables that lead every S3 client of a process here, as this user."""
        key, secret = user
        here = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        return {**CREDENTIALS, **here, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def make_bucket(self, name: str) -> None:
        """A bucket of the owner's."""
        key, secret = OWNER
        where = {"endpoint_url": f"http://127.0.0.1:{self.port}", "skip_instance_cache": True}
        s3fs.S3FileSystem(key=key, secret=secret, **where).mkdir(name)

    def close(self) -> None:
        """End the servers."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def _make_ring(self, name: str, port: int) -> None:
        """One copy on one device."""
        builder = f"{self.folder}/{name}.builder"
        for words in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{port}/d1", "1"], ["rebalance"]):
            command = [*self._python(), str(self._programs / "swift-ring-builder"), builder, *words]
            subprocess.run(command, check=True, capture_output=True)

    def _start(self, name: str, port: int) -> None:
        config = self.folder / f"{name}-server.conf"
        passed = FILTERS if name == "proxy" else {}
        pipeline = " ".join([*passed, f"{name}-server"])
        user = pwd.getpwuid(os.geteuid()).pw_name
        text = _SERVER.format(port=port, user=user, folder=self.folder, pipeline=pipeline, name=name)
        text += "account_autocreate = true\n" if name == "proxy" else ""
        sections = [f"[filter:{each}]\nuse = egg:swift#{each}\n{options}" for each, options in passed.items()]
        config.write_text(text + "".join(sections))
        command = [*self._python(), str(self._programs / f"swift-{name}-server"), str(config)]
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _python(self) -> list[str]:
        """Swift's own interpreter: its programs are scripts."""
        return [str(self._programs / "python")]
