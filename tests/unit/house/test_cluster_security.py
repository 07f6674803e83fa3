"""Who gets in where a cluster is brought up: tokens, the dashboard, the image, the scripts, and what is uploaded."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ray._private.runtime_env.packaging import _dir_travel  # noqa: TID251 what `--working-dir .` uploads

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file() and path.suffix != ".pyc")
SCRIPTS = [path for path in FILES if path.suffix == ".sh"]
UPLOAD_MB = 20
"""Of `ray job submit --working-dir .`, unpacked; Ray's own limit is some 500 MB, and every node fetches it."""
EMBEDDED = {
    "embedded_wild_teacher",
    "embedded_teacher",
    "embedded_chambers_teacher",
    "embedded_judge",
    "embedded_wild_judge",
}
EMBEDDED |= {"embedded_large_student", "embedded_small_student", "latent_video"}


# -- tokens and the dashboard ----------------------------------------------------------------------------------------


def commands(path: Path) -> list[str]:
    """The commands of a file, one string each: a script's whole text, each item of a YAML file's lists."""
    if path.suffix == ".sh":
        return ["\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))]
    documents = yaml.safe_load_all(path.read_text()) if path.suffix == ".yaml" else []
    keys = ("head_start_ray_commands", "worker_start_ray_commands")
    return [command for found in documents for key in keys for command in found.get(key, [])]


def exposure(text: str) -> list[str]:
    """Ways in which one command lets somebody in."""
    found = []
    starts = re.search(r"\bray start\b", text)
    if starts and not re.search(r"\bexport [^;]*\bRAY_AUTH_MODE=token\b", text[: starts.start()]):
        found.append("ray start without a token")
    if re.search(r"\bray start --head\b", text) and not re.search(r"--dashboard-host=127\.0\.0\.1\b", text):
        found.append("a head whose dashboard is not on the loopback")
    return found


def words_that_expose(text: str) -> list[str]:
    """What may stand in no file that brings up a cluster."""
    forbidden = [
        "LoadBalancer",
        "NodePort",
        "kind: Ingress",
        "enableIngress: true",
        "hostNetwork: true",
        r"(?<![\d.])0\.0\.0\.0",
    ]
    forbidden += ["RAY_AUTH_MODE[=: \"']+disabled", "mode: disabled", "kind: Secret", "RAY_AUTH_TOKEN=[^\"'$ ]"]
    forbidden += ["AKIA[0-9A-Z]{16}", "BEGIN [A-Z ]*PRIVATE KEY", "(?<!sha256:)(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])"]
    return [pattern for pattern in forbidden if re.search(pattern, text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ray_starts_with_a_token_and_the_dashboard_stays_inside(path: Path) -> None:
    assert [fault for command in commands(path) for fault in exposure(command)] == []
    assert words_that_expose(path.read_text()) == []


def test_every_way_to_start_ray_was_looked_at() -> None:
    starting = {path.name for path in FILES if any("ray start" in command for command in commands(path))}
    assert starting == {"aws.yaml", "gcp.yaml", "on_premise.yaml", "start_ray.sh"}
    spec = yaml.safe_load((CLUSTER / "kuberay" / "cluster" / "raycluster.yaml").read_text())["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "echodfkd-token"}
    assert (spec["headGroupSpec"]["serviceType"], spec["headGroupSpec"]["enableIngress"]) == ("ClusterIP", False)
    for name in ("aws.yaml", "gcp.yaml", "on_premise.yaml"):
        mounts = yaml.safe_load((CLUSTER / name).read_text())["file_mounts"]
        assert mounts == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


def test_the_checks_of_exposure_find_what_they_look_for() -> None:
    assert exposure("ray start --address=x:1") == ["ray start without a token"]
    assert exposure("ray start --head --dashboard-host=127.0.0.1; export RAY_AUTH_MODE=token") != []
    assert exposure("export RAY_AUTH_MODE=token; ray start --head --dashboard-host=10.0.0.1") != []
    assert exposure("export A=1 RAY_AUTH_MODE=token; ray start --head --dashboard-host=127.0.0.1") == []
    for text in ("type: LoadBalancer", "RAY_AUTH_MODE: disabled", "RAY_AUTH_TOKEN=abc", "--dashboard-host=0.0.0.0"):
        assert words_that_expose(text), text


# -- the image -------------------------------------------------------------------------------------------------------


def dockerfile_faults(text: str) -> list[str]:
    """Our own rules for an image."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    found = []
    for word, rest in lines:
        if word == "FROM" and not re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}( AS \w+)?", rest):
            found.append(f"FROM {rest}: no full version as its tag, or no digest")
        if "pip install" in rest and "-c constraints.txt" not in rest:
            found.append(f"pip without the constraints: {rest}")
        if "apt-get install" in rest and "rm -rf /var/lib/apt/lists" not in rest:
            found.append("apt's lists are left in the image")
        if word == "ADD" or (word == "COPY" and re.search(r"(^|\s)\.\s", rest)):
            found.append(f"{word} {rest}: name what goes in")
        if word in ("ENV", "ARG") and re.search(r"TOKEN|SECRET|PASSWORD|KEY", rest):
            found.append(f"a secret in {word}")
    users = [rest for word, rest in lines if word == "USER"]
    if not users or users[-1] in ("root", "0"):
        found.append("runs as root")
    if not any(word == "WORKDIR" and rest.startswith("/") for word, rest in lines):
        found.append("no WORKDIR")
    return found


def test_the_image_keeps_our_rules() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert dockerfile_faults(text) == []
    assert "RAY_AUTH_MODE=token" in text
    copied = {name for line in re.findall(r"^COPY (.*)$", text, re.M) for name in line.split()[:-1]}
    ignore = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore  # the context is empty but for these
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_rules_of_images_find_what_they_look_for() -> None:
    bad = "FROM python:latest\nCOPY . .\nENV RAY_AUTH_TOKEN=1\nRUN pip install ray\nRUN apt-get install git\n"
    assert len(dockerfile_faults(bad)) == 7
    assert (
        dockerfile_faults(
            f"FROM a/b:1.2.3-x@sha256:{'0' * 64} AS c\nWORKDIR /x\nRUN pip install \\\n -c constraints.txt y\nUSER z\n"
        )
        == []
    )
    assert dockerfile_faults("FROM a/b:1.2.3-x\nWORKDIR /x\nUSER z\n") != []


# -- scripts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_pass_shellcheck() -> None:
    done = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def fake_programs(folder: Path, **programs: str) -> dict[str, str]:
    """An environment whose PATH begins with fake programs, each a script of bash; they write to $LOG."""
    folder.mkdir()
    for name, body in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    home = folder.parent
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(home),
        "LOG": str(home / "log"),
        "REAL": sys.executable,
    }


FAKE_RAY = 'echo "ray $RAY_AUTH_MODE ${RAY_JOB_STOP_WAIT_TIME_S:-} $*" >> "$LOG"'


def test_start_ray_needs_a_token_and_passes_it_on(tmp_path: Path) -> None:
    env = fake_programs(tmp_path / "bin", ray=FAKE_RAY)

    def start(*words: str) -> int:
        command = [str(CLUSTER / "start_ray.sh"), *words]
        return subprocess.run(command, env=env, capture_output=True, check=False).returncode

    assert start("head") == 2
    assert not (tmp_path / "log").exists()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert [start("head", "--port=1"), start("worker", "--address=h:1"), start("hat"), start()] == [0, 0, 2, 1]
    head, worker = (tmp_path / "log").read_text().splitlines()
    folders = [Path(re.search(r"--temp-dir=(/tmp/r\.\w{6})/ray ", line)[1]) for line in (head, worker)]
    try:
        assert head == (
            f"ray token 60 start --head --block --dashboard-host=127.0.0.1 --temp-dir={folders[0]}/ray --port=1"
        )
        assert worker == f"ray token  start --block --temp-dir={folders[1]}/ray --address=h:1"
        assert folders[0] != folders[1]
        assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700, 0o700]  # nobody else enters
    finally:
        for folder in folders:
            folder.rmdir()


def test_a_head_that_ray_could_not_start_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Its client server ends with code 127 from a path with a space, and Ray ends all else: "will be killed"."""
    env = fake_programs(tmp_path / "my programs", ray=FAKE_RAY) | {"RAY_AUTH_TOKEN": "x"}
    command = [str(CLUSTER / "start_ray.sh"), "head"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: ray lies at '.*/my programs/ray', and a head .* a path with a space: .*\n", done.stderr
    )
    assert not (tmp_path / "log").exists()


def test_the_paths_of_rays_sockets_are_short_enough() -> None:
    longest = "/tmp/r.XXXXXX/ray/session_2026-11-30_11-16-11_123456_4194304/sockets/plasma_store.123"
    assert len(longest) < 107
    text = (CLUSTER / "start_ray.sh").read_text()
    assert "private=$(mktemp -d /tmp/r.XXXXXX)\n" in text
    assert "--temp-dir" not in (CLUSTER / "slurm.sh").read_text()  # each machine makes its own


def test_a_slurm_job_starts_all_roles_and_asks_again_after_its_notice(tmp_path: Path) -> None:
    """With fake srun, ray, scontrol and python: the script's own decisions are real, and so are its processes."""
    env = fake_programs(
        tmp_path / "bin",
        ray=FAKE_RAY,
        srun='echo "srun $*" >> "$LOG"; exec sleep 60',
        scontrol='echo "scontrol $*" >> "$LOG"',
        hostname="echo 192.0.2.1",
        python='[[ $1 == -c ]] && exec "$REAL" "$@"; stat -c %a "$RAY_AUTH_TOKEN_PATH" >> "$LOG"; '
        'echo "python $RAY_ADDRESS $*" >> "$LOG"; [[ $* == *wrong* ]] && exit 2; '
        'trap "kill %1; exit 0" TERM; sleep 60 & wait',
    )
    env |= {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "4242"}
    script = [str(CLUSTER / "slurm.sh"), "--config", "c.yaml"]
    job = subprocess.Popen(script, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "log"
    try:
        deadline = time.monotonic() + 30
        while "distill.py" not in (log.read_text() if log.exists() else ""):
            assert time.monotonic() < deadline
            assert job.poll() is None
            time.sleep(0.05)
        time.sleep(0.3)  # until the script knows its driver
        token = (tmp_path / ".ray" / "slurm-4242" / "auth_token").read_text()
        job.send_signal(signal.SIGTERM)
        job.wait(timeout=20)
    finally:
        job.kill()
    lines = log.read_text().splitlines()
    starts = sorted(line for line in lines if line.startswith("srun"))
    assert [re.findall("--labels=(\\S+)", line) for line in starts] == [
        [], ["role=student"], ["role=teacher"], ["ray-subcluster=eval"], ["role=synthesis"]
    ]  # fmt: skip
    assert "--port=24242 --dashboard-port=34242 --ray-client-server-port=44242" in starts[0]
    assert all(line.endswith(" --dashboard-agent-listen-port=0") for line in starts)  # another job's Ray may be there
    assert "python 192.0.2.1:24242 jobs/distill.py --config c.yaml ray.wait_for_nodes_s=300" in lines
    assert lines[-1] == "scontrol requeue 4242"
    assert "600" in lines  # the token's file is its owner's alone
    assert len(token) == 64
    assert token not in log.read_text()
    assert not (tmp_path / ".ray" / "slurm-4242").exists()
    log.unlink()
    wrong = [*script, "wrong=1", "ray.wait_for_nodes_s=9"]
    done = subprocess.run(wrong, env=env, cwd=tmp_path, capture_output=True, timeout=30, check=False)
    assert done.returncode == 2
    tried = [line for line in log.read_text().splitlines() if "distill" in line]
    assert tried == ["python 192.0.2.1:24242 jobs/distill.py --config c.yaml wrong=1 ray.wait_for_nodes_s=9"]


# -- what a submitted job uploads ------------------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_a_submitted_job_uploads_little_and_no_data() -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    ours = {ROOT / name for name in listed.stdout.decode().splitlines()}
    uploaded: list[Path] = []
    _dir_travel(ROOT, [], uploaded.append, include_gitignore=True)
    uploaded = [path for path in uploaded if path in ours]
    assert {ROOT / "jobs/distill.py", ROOT / "configs/cluster.yaml", ROOT / "echodfkd/config/run.py"} <= set(uploaded)
    assert not {"tests", "docs", "cluster", ".ci"} & {path.relative_to(ROOT).parts[0] for path in uploaded}
    assert sum(path.stat().st_size for path in uploaded) < UPLOAD_MB * 10**6
    weights = {
        path.stem for path in uploaded if path.suffix in (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".onnx")
    }
    assert weights == EMBEDDED
    data = {".avi", ".mp4", ".dcm", ".parquet", ".npz", ".npy", ".csv", ".zip", ".tar", ".gz"}
    assert not [path for path in uploaded if path.suffix in data]


def test_every_file_of_the_folder_is_explained() -> None:
    """By its name, or by that of its folder under kuberay/."""
    text = (CLUSTER / "README.md").read_text()
    names = ["/".join(path.relative_to(CLUSTER).parts[: 2 if "kuberay" in path.parts else None]) for path in FILES]
    assert not [name for name in names if name != "README.md" and name not in text]
    named = set(re.findall(r"(?<![\w/])(?:cluster|configs|jobs)/[\w./-]+\w", text))
    assert {"cluster/aws.yaml", "configs/cluster.yaml", "jobs/preflight.py"} <= named
    assert not [name for name in named if not (ROOT / name).exists()]
