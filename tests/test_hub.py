"""minitrans.hub against a stand-in hub on loopback, through the real huggingface_hub."""

import errno
import fcntl
import hashlib
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import traceback
from pathlib import Path
from unittest import mock

import pytest
from huggingface_hub import snapshot_download
from standin_hub import Fault, StandInHub

import minitrans
from minitrans.hub import atomic_folder, open_repository, open_with, push_folder

WEIGHTS = bytes(range(256)) * 512
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": WEIGHTS,
    "vocab.txt": b"[PAD]\n[UNK]\n",
    "small/config.json": b'{"model_type": "distilbert"}',
}
NAME = "org/tiny"


@pytest.fixture
def hub():
    with StandInHub({NAME: FILES}) as server:
        yield server


@pytest.fixture
def cache(tmp_path, hub):
    """The process's huggingface_hub talks to the stand-in, with an empty cache."""
    folder = tmp_path / "cache"
    with hub.connected(folder):
        yield folder


def one_sentence(caught: pytest.ExceptionInfo[BaseException], *words: str) -> None:
    """The message is one line and names what the reader needs."""
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def partial_files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.incomplete"))


# A repository on the hub


def test_only_the_files_asked_for_are_fetched(hub, cache):
    repository = open_repository(NAME)
    assert hub.requests == []
    assert repository.json("config.json") == {"model_type": "bert"}
    assert repository.file("model.safetensors").read_bytes() == WEIGHTS
    assert {request.path.rsplit("/")[-1] for request in hub.requests} == {"config.json", "model.safetensors"}
    assert repository.name == NAME


def test_the_subfolder_is_the_root_of_what_is_seen(hub, cache):
    for subfolder in ("small", "small/"):
        repository = open_repository(NAME, subfolder=subfolder)
        assert repository.json("config.json") == {"model_type": "distilbert"}
        assert repository.find("vocab.txt") is None
    assert "/small/config.json" in hub.asked("config.json")[-1].path


def test_branches_tags_and_commits(hub, cache):
    first = hub.repositories[NAME].refs["main"]
    hub.tag(NAME, "v1", first)
    second = hub.commit(NAME, {"config.json": b'{"model_type": "second"}'})
    third = hub.commit(NAME, {"config.json": b'{"model_type": "third"}'}, branch="feature/x")
    expected = {None: "second", "main": "second", "v1": "bert", first: "bert", second: "second", third: "third"}
    for revision, kind in {**expected, "feature/x": "third"}.items():
        assert open_repository(NAME, revision=revision).json("config.json") == {"model_type": kind}


@pytest.mark.parametrize("first_asked", ["config.json", "absent.json"])
def test_all_files_come_from_the_commit_of_the_first_answer(hub, cache, first_asked):
    repository = open_repository(NAME)
    repository.find(first_asked)
    hub.commit(NAME, {"model.safetensors": b"other weights", "late.json": b"{}", "config.json": b"{}"})
    assert repository.file("model.safetensors").read_bytes() == WEIGHTS
    assert repository.json("config.json") == {"model_type": "bert"}
    assert repository.find("late.json") is None
    assert open_repository(NAME).file("model.safetensors").read_bytes() == b"other weights"


def test_a_second_opening_asks_for_no_bytes_again(hub, cache):
    for _ in range(2):
        repository = open_repository(NAME)
        repository.json("config.json"), repository.file("model.safetensors"), repository.find("absent.json")
        repository.json("config.json"), repository.file("model.safetensors"), repository.find("absent.json")
    assert len(hub.asked("config.json", "GET")) == len(hub.asked("model.safetensors", "GET")) == 1
    # One request to learn which commit the branch names now; the commit's files and absences are remembered.
    assert len(hub.asked("config.json", "HEAD")) == 2
    assert len(hub.asked("model.safetensors", "HEAD")) == len(hub.asked("absent.json", "HEAD")) == 1


def test_force_download_fetches_each_file_once_again(hub, cache):
    open_repository(NAME).file("config.json").write_bytes(b"spoilt")
    repository = open_repository(NAME, force_download=True)
    for _ in range(2):
        assert repository.json("config.json") == {"model_type": "bert"}
    assert len(hub.asked("config.json", "GET")) == 2
    with pytest.raises(ValueError, match="choose one"):
        open_repository(NAME, force_download=True, local_files_only=True)


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, cache):
    hub.repositories[NAME].token = "hf_secret"
    assert open_repository(NAME, token="hf_secret").file("model.safetensors").read_bytes() == WEIGHTS
    assert {request.token for request in hub.asked() if "/resolve/" in request.path} == {"hf_secret"}
    assert [request.token for request in hub.asked() if "/cdn/" in request.path] == [None]


def test_cache_dir_is_used(hub, cache, tmp_path):
    path = open_repository(NAME, cache_dir=tmp_path / "elsewhere").file("config.json")
    assert path.is_relative_to(tmp_path / "elsewhere")
    assert not cache.exists()


# Without the hub


@pytest.fixture(params=["HF_HUB_OFFLINE", "local_files_only"])
def opened_offline(request, hub, cache, monkeypatch):
    """Calling it goes offline, one way or the other, and opens the repository."""

    def opened():
        if request.param == "local_files_only":
            return open_repository(NAME, local_files_only=True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        return open_repository(NAME)

    return opened


def test_cached_files_need_no_network(hub, opened_offline):
    online = open_repository(NAME)
    online.file("config.json"), online.file("model.safetensors"), online.find("absent.json")
    asked = len(hub.requests)
    repository = opened_offline()
    assert repository.find("absent.json") is None
    assert repository.json("config.json") == {"model_type": "bert"}
    assert repository.file("model.safetensors").read_bytes() == WEIGHTS
    assert len(hub.requests) == asked


@pytest.mark.parametrize("fetched", [["config.json"], ["*.json"], ["model.safetensors", "small/*"]])
def test_what_a_cached_download_lacks_is_optional_or_not_cached(hub, opened_offline, fetched):
    """As after `snapshot_download(allow_patterns=…)`, which container images are made with."""
    snapshot_download(NAME, allow_patterns=fetched)
    asked = len(hub.requests)
    repository = opened_offline()
    for filename in ("vocab.txt", "absent.json", "small/vocab.txt"):
        assert repository.find(filename) is None
        with pytest.raises(FileNotFoundError) as caught:
            repository.file(filename)
        one_sentence(caught, f"{filename} of {NAME}", "not in the cache", "HF_HUB_OFFLINE or local_files_only")
    with pytest.raises(FileNotFoundError, match=r"absent\.json or vocab\.txt of .* is not in the cache"):
        repository.file("absent.json", "vocab.txt")
    with pytest.raises(FileNotFoundError, match=r"deep/vocab\.txt of .* is not in the cache"):
        repository.inside("deep").file("vocab.txt")
    assert repository.names("small") == (["config.json"] if fetched != ["config.json"] else [])
    assert len(hub.requests) == asked


def test_what_is_not_cached_at_all_is_never_optional(hub, opened_offline):
    asked = len(hub.requests)
    with pytest.raises(FileNotFoundError, match="not in the cache"):
        opened_offline().names("small")
    with pytest.raises(FileNotFoundError) as caught:
        opened_offline().find("modules.json")
    one_sentence(caught, f"modules.json of {NAME}", "not in the cache", "HF_HUB_OFFLINE or local_files_only")
    assert len(hub.requests) == asked


def test_a_whole_download_knows_what_the_repository_lacks(hub, opened_offline):
    hub.commit(NAME, {".gitattributes": b""})
    snapshot_download(NAME)
    repository = opened_offline()
    assert repository.find("absent.json") is None
    assert repository.json("config.json") == {"model_type": "bert"}


def test_a_hub_that_does_not_answer_is_not_taken_for_one_without_the_file(hub, cache):
    snapshot_download(NAME, allow_patterns=["*.json"])
    hub.faults = {"vocab.txt": Fault(status=503)}
    repository = open_repository(NAME)
    assert repository.json("config.json") == {"model_type": "bert"}
    with pytest.raises(ConnectionError, match="HTTP 503"):
        repository.find("vocab.txt")


def test_a_dead_hub_serves_from_the_cache(hub, cache):
    open_repository(NAME).file("config.json")
    hub.faults = {"config.json": Fault(status=503), "vocab.txt": Fault(status=503)}
    repository = open_repository(NAME)
    assert repository.json("config.json") == {"model_type": "bert"}
    with pytest.raises(ConnectionError) as caught:
        repository.file("vocab.txt")
    one_sentence(caught, "vocab.txt of org/tiny", "HTTP 503", hub.url)


def test_the_environment_decides_in_a_fresh_process(hub, tmp_path):
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE as users set them; nothing is printed where there is no terminal."""
    script = "import sys; from minitrans.hub import open_repository; r = open_repository('org/tiny')\n"
    script += "print(r.file('config.json')); r.file('model.safetensors'); r.find('absent.json')"
    environment = hub.environment(tmp_path / "home")
    runs = []
    for extra in ({}, {"HF_HUB_OFFLINE": "1"}):
        run = subprocess.run(
            [sys.executable, "-c", script], env={**environment, **extra}, capture_output=True, text=True, check=True
        )
        runs.append((run.stdout, run.stderr, len(hub.requests)))
    assert Path(runs[0][0].strip()).is_relative_to(tmp_path / "home")
    assert runs[0] == runs[1]
    assert runs[0][1] == ""
    assert runs[0][2] > 0


def test_a_terminal_sees_progress(hub, tmp_path):
    script = "from minitrans.hub import open_repository; open_repository('org/tiny').file('model.safetensors')"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    subprocess.run([sys.executable, "-c", script], env=hub.environment(tmp_path), stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "model.safetensors" in shown
    assert "100%" in shown


# What goes wrong


def test_what_does_not_exist(hub, cache):
    with pytest.raises(FileNotFoundError) as caught:
        open_repository(NAME).file("absent.json")
    one_sentence(caught, "absent.json", NAME, "revision main", hub.url)
    with pytest.raises(FileNotFoundError) as caught:
        open_repository(NAME, revision="v9").file("config.json")
    one_sentence(caught, NAME, "revision 'v9'", hub.url)
    with pytest.raises(FileNotFoundError) as caught:
        open_repository("org/none").file("config.json")
    one_sentence(caught, "'org/none'", "neither a folder here nor a repository", "token=")


def test_what_may_not_be_read(hub, cache):
    hub.repositories[NAME].token = "hf_secret"
    with pytest.raises(FileNotFoundError) as caught:
        open_repository(NAME).file("config.json")
    one_sentence(caught, "private one needs token=")
    hub.repositories[NAME].gated = True
    for token in (None, "hf_of_somebody_else"):
        with pytest.raises(PermissionError) as caught:
            open_repository(NAME, token=token).find("config.json")
        one_sentence(caught, "gated", f"{hub.url}/{NAME}", "token=")
    hub.faults["config.json"] = Fault(status=403)
    with pytest.raises(PermissionError) as caught:
        open_repository(NAME, token="hf_secret").find("config.json")
    one_sentence(caught, "HTTP 403", "check the token")
    with pytest.raises(PermissionError) as caught:
        open_repository(NAME, token=True).find("config.json")
    one_sentence(caught, "no token is stored")


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("filename", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("status", [500, 503])
def test_server_errors(hub, cache, status, filename, method):
    hub.faults[filename] = Fault(status=status, methods=(method,))
    repository = open_repository(NAME)
    with pytest.raises(ConnectionError) as caught:
        repository.file(filename)
    one_sentence(caught, filename, f"HTTP {status}", hub.url, "try again later")
    hub.faults.clear()
    assert repository.file(filename).read_bytes() == FILES[filename]


def test_a_short_outage_is_waited_out(hub, cache):
    hub.faults["config.json"] = Fault(status=503, times=3, methods=("HEAD",))
    assert open_repository(NAME).json("config.json") == {"model_type": "bert"}


@pytest.mark.parametrize("filename", ["config.json", "model.safetensors"])
def test_a_cut_download_is_resumed_where_it_stopped(hub, cache, filename):
    hub.faults[filename] = Fault(cut_after=10, methods=("GET",), times=1)
    with mock.patch("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 5):
        assert open_repository(NAME).file(filename).read_bytes() == FILES[filename]
    assert hub.asked(filename, "GET")[-1].range == "bytes=10-"
    assert partial_files(cache) == []


@pytest.mark.parametrize("filename", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut_after=0),
        Fault(cut_after=10, announce_length=False, times=1),
        Fault(cut_after=0, announce_length=False),
        Fault(silent=True),
    ],
    ids=["no-bytes", "short-without-length", "empty-without-length", "silent"],
)
def test_a_download_that_stays_cut_leaves_nothing_behind(hub, cache, filename, fault):
    hub.faults[filename] = Fault(**{**vars(fault), "methods": ("GET",)})
    with pytest.raises(ConnectionError) as caught:
        open_repository(NAME).file(filename)
    one_sentence(caught, f"{filename} of {NAME}", hub.url)
    assert partial_files(cache) == []
    with pytest.raises(FileNotFoundError):
        open_repository(NAME, local_files_only=True).file(filename)
    hub.faults.clear()
    assert open_repository(NAME).file(filename).read_bytes() == FILES[filename]


SPOILT = {
    "flipped": Fault(flip=7),
    "flipped at the end": Fault(flip=-1),
    "cut short, no length anywhere": Fault(cut_after=11, announce_length=False),
}


@pytest.mark.parametrize("filename", ["config.json", "model.safetensors", "vocab.txt", "small/config.json"])
@pytest.mark.parametrize("how", SPOILT)
def test_what_arrives_otherwise_than_announced_is_not_kept(hub, cache, filename, how):
    hub.faults[Path(filename).name] = SPOILT[how]
    with pytest.raises(ConnectionError) as caught:
        open_repository(NAME).file(filename)
    one_sentence(caught, f"{filename} of {NAME}", hub.url)
    with pytest.raises(FileNotFoundError):
        open_repository(NAME, local_files_only=True).file(filename)
    hub.faults.clear()
    assert open_repository(NAME).file(filename).read_bytes() == FILES[filename]
    hub.faults[Path(filename).name] = Fault(flip=3)
    with pytest.raises(ConnectionError, match="try again"):
        open_repository(NAME, force_download=True).file(filename)


def test_json_that_arrives_broken_under_an_etag_that_says_nothing(hub, cache):
    hub.faults["config.json"] = Fault(cut_after=9, announce_length=False, headers={"ETag": '"v1"'})
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        open_repository(NAME).json("config.json")
    hub.faults["config.json"] = Fault(headers={"ETag": '"v1"'})
    assert open_repository(NAME).json("config.json") == {"model_type": "bert"}


def test_a_file_is_read_once_more_only_when_it_was_downloaded(hub, cache):
    with mock.patch("minitrans.hub.hashlib.new", wraps=hashlib.new) as made:
        open_repository(NAME).file("model.safetensors")
        assert [call.args[0] for call in made.call_args_list] == ["sha256"]
        open_repository(NAME).file("model.safetensors")
        assert made.call_count == 1


@pytest.mark.parametrize("digest", ["plain SHA-1", "an S3 etag", "a word"])
def test_etags_of_mirrors(hub, cache, digest):
    etag = {"plain SHA-1": hashlib.sha1(FILES["config.json"]).hexdigest(), "an S3 etag": "d41d8cd9-2", "a word": "v1"}
    hub.faults["config.json"] = Fault(headers={"ETag": f'"{etag[digest]}"'})
    assert open_repository(NAME).json("config.json") == {"model_type": "bert"}


@pytest.mark.parametrize("filename", ["config.json", "model.safetensors"])
def test_a_mirror_may_write_digests_in_capitals(hub, cache, filename):
    content = FILES[filename]
    digests = {"ETag": hashlib.sha1(b"blob %d\0" % len(content) + content), "X-Linked-Etag": hashlib.sha256(content)}
    name = "X-Linked-Etag" if filename == "model.safetensors" else "ETag"
    header = {name: f'"{digests[name].hexdigest().upper()}"'}
    hub.faults[filename] = Fault(flip=3, headers=header)
    with pytest.raises(ConnectionError, match="was announced"):
        open_repository(NAME).file(filename)
    hub.faults[filename] = Fault(headers=header)
    assert open_repository(NAME).file(filename).read_bytes() == FILES[filename]


OUTSIDE = [
    "../../../../owned",
    "/{outside}/owned",
    "..",
    ".",
    "",
    "a/../../../../owned",
    "..\\owned",
    "x" * 250,
    "a/b",
]


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit"])
@pytest.mark.parametrize("value", OUTSIDE)
@pytest.mark.parametrize("filename", ["config.json", "model.safetensors", "absent.json"])
def test_a_hub_cannot_write_outside_the_cache(hub, cache, tmp_path, filename, value, header):
    value = value.format(outside=tmp_path)
    answer = {"X-Linked-Etag": "", header: value if header == "X-Repo-Commit" else f'"{value}"'}
    hub.faults[filename] = Fault(headers=answer)
    with pytest.raises(ConnectionError) as caught:
        open_repository(NAME).file(filename)
    one_sentence(caught, f"{filename} of {NAME}", "was refused")
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "owned" in path.name] == []
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}
    hub.faults.clear()
    assert open_repository(NAME).json("config.json") == {"model_type": "bert"}


def test_a_revision_is_no_path_out_of_the_cache(hub, cache):
    with pytest.raises(ValueError, match="points outside"):
        open_repository(NAME, revision="../../owned")


def every_text(error: BaseException) -> str:
    """All that a traceback of an error prints."""
    return "".join(traceback.format_exception(error))


SECRET = "hf_topsecret"
TOKENS = ["{}\n", "\n {}\t", "{}\nmore", "{} more", "{}\x00", "{}é", "\ud800{}"]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("doing", ["opening", "pushing", "listing"])
def test_no_message_shows_the_token(hub, cache, caplog, token, doing):
    token = token.format(SECRET)
    hub.repositories[NAME].token = SECRET
    work = {
        "opening": lambda: open_repository(NAME, token=token).file("config.json"),
        "listing": lambda: open_repository(NAME, token=token).names(""),
        "pushing": lambda: push_folder(NAME, write, token=token),
    }[doing]
    if token.strip() == SECRET:
        work()
    else:
        with pytest.raises(ValueError, match="token= holds") as caught:
            work()
        assert SECRET not in every_text(caught.value)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("token", ["", " \n", None, False])
def test_no_token(hub, cache, token):
    assert open_repository(NAME, token=token).json("config.json") == {"model_type": "bert"}
    assert {request.token for request in hub.asked()} == {None}


@pytest.mark.parametrize("token", [b"hf_topsecret", ["hf_topsecret"], Path("hf_topsecret"), 7])
def test_a_token_is_text(token):
    with pytest.raises(TypeError, match="token is of type") as caught:
        open_repository(NAME, token=token)
    assert SECRET not in every_text(caught.value)


@pytest.mark.parametrize("token", ["{}é", "{}\x00{}"])
@pytest.mark.parametrize("place", ["HF_TOKEN", "file"])
def test_no_message_shows_a_stored_token(hub, cache, monkeypatch, token, place):
    token = token.format(SECRET, SECRET)
    cache.mkdir()
    if place == "file":
        (cache / "token").write_text(token)
    else:
        monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_environment", lambda: token)
    for work in (
        lambda: open_repository(NAME).file("config.json"),
        lambda: open_repository(NAME).names(""),
        lambda: push_folder(NAME, write),
    ):
        with pytest.raises(ConnectionError) as caught:
            work()
        assert SECRET not in every_text(caught.value)


@pytest.mark.parametrize("status", [0, 200, 401, 403, 404, 429, 500])
def test_no_failure_shows_the_token_or_a_password(hub, cache, monkeypatch, caplog, status):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url.replace("//", "//me:hf_topsecret@"))
    hub.faults["config.json"] = Fault(status=status, silent=status == 0)
    hub.faults["absent.json"] = Fault(status=status, silent=status == 0)
    for filename in ("config.json", "absent.json"):
        with pytest.raises(OSError, match=filename) as caught:
            open_repository(NAME, token=SECRET).file(filename)
        assert SECRET not in every_text(caught.value)
    assert SECRET not in caplog.text


def test_a_killed_download_does_not_spoil_the_cache(hub, tmp_path):
    environment = hub.environment(tmp_path / "home")
    script = "from minitrans.hub import open_repository; open_repository('org/tiny').file('vocab.txt')"
    hub.faults["vocab.txt"] = Fault(delay=60, methods=("GET",), times=1)
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    while not hub.asked("vocab.txt", "GET"):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    with hub.connected(tmp_path / "home" / "hub"):
        assert open_repository(NAME).file("vocab.txt").read_bytes() == FILES["vocab.txt"]


def test_no_answer_in_time(hub, cache):
    hub.faults["vocab.txt"] = Fault(delay=0.3)
    with (
        mock.patch("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.05),
        mock.patch("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.05),
        pytest.raises(ConnectionError) as caught,
    ):
        open_repository(NAME).file("vocab.txt")
    one_sentence(caught, "vocab.txt of org/tiny", "timed out")


def test_no_hub_at_all(hub, cache):
    hub.__exit__()
    with pytest.raises(ConnectionError) as caught:
        open_repository(NAME).file("config.json")
    one_sentence(caught, "config.json of org/tiny", hub.url)
    hub.__enter__()


def test_a_server_that_is_no_hub(hub, cache):
    hub.faults["config.json"] = Fault(status=200)
    with pytest.raises(ConnectionError) as caught:
        open_repository(NAME).file("config.json")
    one_sentence(caught, "config.json of org/tiny", "HF_ENDPOINT")


def test_a_full_disk(hub, cache):
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        mock.patch("huggingface_hub.file_download.http_get", side_effect=full),
        pytest.raises(OSError, match="stored") as caught,
    ):
        open_repository(NAME).file("config.json")
    one_sentence(caught, "config.json of org/tiny", "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert partial_files(cache) == []
    assert open_repository(NAME).json("config.json") == {"model_type": "bert"}


# A local folder


@pytest.fixture
def folder(tmp_path):
    for path, content in FILES.items():
        target = tmp_path / "model" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return tmp_path / "model"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_used_as_it_is(folder, kind):
    repository = open_repository(kind(folder))
    assert repository.file("model.safetensors") == folder / "model.safetensors"
    assert repository.find("absent.json", "vocab.txt", "config.json") == folder / "vocab.txt"
    assert repository.find("absent.json", "small") is None
    assert open_repository(kind(folder), subfolder="small/").json("config.json") == {"model_type": "distilbert"}
    with pytest.raises(FileNotFoundError) as caught:
        repository.file("absent.json")
    one_sentence(caught, "absent.json is missing", str(folder), "config.json, model.safetensors, small, vocab.txt")
    with pytest.raises(FileNotFoundError) as caught:
        open_repository(kind(folder), subfolder="large")
    one_sentence(caught, str(folder), "no folder large", "small")


def test_options_of_others_are_handed_back(folder):
    options = {"subfolder": "small", "revision": None, "strict": True, "num_labels": 3}
    repository, rest = open_with(folder, options)
    assert repository.json("config.json") == {"model_type": "distilbert"}
    assert rest == {"strict": True, "num_labels": 3}
    assert len(options) == 4


def test_a_folder_wins_over_the_hub(folder, monkeypatch):
    (folder / "org").mkdir()
    (folder / "small").rename(folder / "org" / "tiny")
    monkeypatch.chdir(folder)
    assert open_repository("org/tiny").json("config.json") == {"model_type": "distilbert"}


def test_a_local_folder_imports_no_hub_library(folder):
    script = (
        f"import sys; from minitrans.hub import open_repository; open_repository({str(folder)!r}).json('config.json')"
    )
    script += "\nassert not {'huggingface_hub', 'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("escape", ["../secret", "a/../../secret", "/etc/passwd", "..\\secret", "C:\\secret", ".."])
def test_no_path_leads_out_of_the_repository(hub, cache, folder, escape):
    (folder.parent / "secret").write_text("secret")
    for repository in (open_repository(folder), open_repository(NAME)):
        for ask in (repository.file, repository.find, repository.json):
            with pytest.raises(ValueError, match="outside") as caught:
                ask(escape)
            one_sentence(caught, repr(escape))
    with pytest.raises(ValueError, match="outside"):
        open_repository(folder, subfolder=escape)
    assert hub.requests == []


def test_what_a_folder_holds_is_listed_up_to_a_dozen(tmp_path):
    def said() -> str:
        with pytest.raises(FileNotFoundError) as caught:
            open_repository(tmp_path).file("absent.json", "none.json")
        one_sentence(caught, f"{tmp_path} has no absent.json and no none.json in {tmp_path}, which holds ")
        return str(caught.value).rpartition("which holds ")[2]

    assert said() == "nothing."
    for number in range(12):
        (tmp_path / f"{number:02}").touch()
    dozen = "00, 01, 02, 03, 04, 05, 06, 07, 08, 09, 10, 11"
    assert said() == f"{dozen}."
    for number in (12, 13):
        (tmp_path / f"{number:02}").touch()
        assert said() == f"{dozen} and {number - 11} more."


def test_names_of_the_files_of_a_folder(hub, cache, folder):
    (folder / "small" / "vocab.txt").touch()
    (folder / "small" / "deeper").mkdir()
    (folder / "small" / "deeper" / "a.txt").touch()
    hub.commit(NAME, {"small/vocab.txt": b"", "small/deeper/a.txt": b""})
    for place in (folder, NAME):
        repository = open_repository(place)
        assert repository.names("small") == ["config.json", "vocab.txt"]
        assert repository.names("none") == []
        assert repository.names("") == ["config.json", "model.safetensors", "vocab.txt"]
        inner = repository.inside("small")
        assert (inner.names(""), inner.names("deeper")) == (["config.json", "vocab.txt"], ["a.txt"])
        with pytest.raises(ValueError, match="outside"):
            repository.names("../elsewhere")


def test_the_identity_of_a_checkpoint_is_that_of_its_files_and_parts(folder, tmp_path):
    def identity() -> str:
        return open_repository(folder).identity()

    (folder / "model.safetensors").write_bytes(bytes(2**20 + 1))
    seen = [identity()]
    shutil.copytree(folder, tmp_path / "copy")
    assert open_repository(tmp_path / "copy").identity() == seen[0]
    for path in ("README.md", "outputs/answers.json", "small/deeper/config.json", "modeling.py"):  # made with it
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("{}")
        assert identity() == seen[0], path
    changes = {
        "model.safetensors": bytes(2**20) + b"1",
        "config.json": FILES["config.json"] + b" ",
        "small/config.json": FILES["small/config.json"].swapcase(),
        "vocab.txt": b"[UNK]\n[PAD]\n",
        "merges.txt": b"",
        "pytorch_model.bin": b"",
        "small/model.safetensors": b"",
        "outputs/config.json": b"{}",
    }
    for path, content in changes.items():
        (folder / path).write_bytes(content)
        seen.append(identity())
    (folder / "vocab.txt").rename(folder / "words.txt")
    seen.append(identity())
    assert len(set(seen)) == len(changes) + 2


def test_the_identity_of_a_repository_on_the_hub_is_its_commit(hub, cache):
    first = hub.repositories[NAME].refs["main"]
    assert open_repository(NAME).identity() == first
    second = hub.commit(NAME, {"config.json": b"{}"})
    assert open_repository(NAME).identity() == second
    assert open_repository(NAME, revision=first).identity() == first


@pytest.mark.parametrize("depth", [1, 50, 99])
def test_json_of_some_levels(folder, depth):
    content = b'{"a": %b%b}' % (b"[" * depth, b"]" * depth)
    (folder / "config.json").write_bytes(content)
    assert open_repository(folder).json("config.json") == json.loads(content)


@pytest.mark.parametrize("name", ["x" * 256, "ü" * 200, "a\0b", "a/" * 200 + "b"], ids=lambda name: name[:3])
def test_names_that_no_file_has(folder, hub, name):
    for ask in (open_repository(folder).find, open_repository(NAME).file, open_repository(folder).inside):
        with pytest.raises(ValueError, match="cannot be the name of a file") as caught:
            ask(name)
        one_sentence(caught)
        assert len(str(caught.value)) < 200
    assert hub.requests == []


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127 + "x"], ids=["letters", "bytes"])
def test_the_longest_name_that_a_file_may_have(folder, name):
    assert open_repository(folder).find(name) is None
    (folder / name).touch()
    assert open_repository(folder).file(name) == folder / name


def test_names_that_are_nothing(folder):
    cases = {
        "./no/such/folder": "neither a folder here nor an id",
        "a/b/c": "neither",
        "has space/x": "neither",
        "--": "neither",
        "x" * 200: "neither",
        str(folder / "none"): "neither",
        folder / "none": "There is no folder",
        folder / "config.json": "is a file",
        str(folder / "config.json"): "is a file",
    }
    for name, words in cases.items():
        with pytest.raises(OSError, match=words) as caught:
            open_repository(name)
        one_sentence(caught, str(name))
    for name in ("", b"bytes", None, ["a"], 3, {}):
        for open_it in (open_repository, lambda name: open_with(name, {}), minitrans.AutoModel.from_pretrained,
                        minitrans.AutoTokenizer.from_pretrained, minitrans.BertConfig.from_pretrained):  # fmt: skip
            with pytest.raises(TypeError if name != "" else ValueError, match="folder or by its id") as caught:
                open_it(name)
            one_sentence(caught)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"a": ', b"[1, 2]", b"3", b'{"a": "\xff"}', b"\x00\x01", b"[" * 100_000,
     *(b'{"a": %b%b}' % (b"[" * depth, b"]" * depth) for depth in (100, 300, 600, 900, 3000)),
     b'{"a": ' * 101 + b"1" + b"}" * 101],
    ids=["empty", "cut", "list", "number", "latin", "binary", "deep", "101", "301", "601", "901", "3001", "objects"],
)  # fmt: skip
def test_json_that_is_none(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="JSON") as caught:
        open_repository(folder).json("config.json")
    one_sentence(caught, "config.json", str(folder))


# Saving


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_saved_files_replace_those_of_the_same_name(folder):
    with atomic_folder(folder) as temporary:
        (temporary / "config.json").write_bytes(b"{}")
        (temporary / "deep").mkdir()
        (temporary / "deep" / "new.txt").write_bytes(b"new")
        assert contents(folder)["config.json"] == FILES["config.json"]
    assert contents(folder) == {**FILES, "config.json": b"{}", "deep/new.txt": b"new"}
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "deep",
        "model.safetensors",
        "small",
        "vocab.txt",
    ]


def test_a_new_folder_gets_the_usual_permissions(tmp_path):
    (tmp_path / "usual").mkdir()
    with atomic_folder(tmp_path / "a" / "b") as temporary:
        (temporary / "config.json").write_bytes(b"{}")
    assert (tmp_path / "a" / "b").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert contents(tmp_path / "a") == {"b/config.json": b"{}"}


def half_saved(folder: Path, error: type[BaseException]) -> None:
    with atomic_folder(folder) as temporary:
        (temporary / "config.json").write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_save_changes_nothing(folder, error):
    for target in (folder, folder.parent / "new"):
        with pytest.raises(error):
            half_saved(target, error)
    assert contents(folder) == FILES
    assert list(folder.parent.iterdir()) == [folder]
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "small", "vocab.txt"}


def test_a_disk_that_fails_at_the_end_changes_nothing(folder):
    broken = mock.patch("os.fsync", side_effect=OSError(errno.EIO, "Input/output error"))
    with broken, pytest.raises(OSError, match="Input/output"), atomic_folder(folder) as temporary:
        (temporary / "config.json").write_bytes(b"{}")
    assert contents(folder) == FILES


def test_a_killed_save_leaves_the_old_files_whole(folder):
    script = f"""
from minitrans.hub import atomic_folder
with atomic_folder({str(folder)!r}) as temporary:
    (temporary / "config.json").write_bytes(b"half")
    weights = (temporary / "model.safetensors").open("wb")
    weights.write(b"x" * 100_000)
    weights.flush()
    print("writing", flush=True)
    input()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    repository = open_repository(folder)
    for path, content in FILES.items():
        assert repository.file(path).read_bytes() == content
    with atomic_folder(folder) as temporary:
        (temporary / "config.json").write_bytes(b"{}")
    assert repository.json("config.json") == {}


def test_saving_into_a_file(folder):
    with pytest.raises(NotADirectoryError, match="is a file"), atomic_folder(folder / "config.json"):
        pass
    assert contents(folder) == FILES


# Pushing


def write(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "pushed"}))
    (folder / "README.md").write_text("# A model\n")
    (folder / "model-00001-of-00002.safetensors").write_bytes(WEIGHTS)
    (folder / "model-00002-of-00002.safetensors").write_bytes(WEIGHTS[::-1])
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")


def test_push_and_open(hub, cache, capfd):
    address = push_folder("me/new", write, token="hf_mine", private=True)
    files = hub.files("me/new")
    assert address == f"{hub.url}/me/new/commit/{hub.repositories['me/new'].refs['main']}"
    assert set(files) - {".gitattributes"} == {
        "config.json",
        "README.md",
        "1_Pooling/config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    repository = open_repository("me/new", token="hf_mine")
    assert repository.json("config.json") == {"model_type": "pushed"}
    assert repository.file("model-00002-of-00002.safetensors").read_bytes() == WEIGHTS[::-1]
    assert len(hub.repositories["me/new"].commits) == 2
    assert hub.repositories["me/new"].token == "hf_mine"
    assert capfd.readouterr() == ("", "")


def test_push_to_a_branch_of_an_existing_repository(hub, cache):
    before = hub.files(NAME)
    push_folder(NAME, write, token="hf_mine", revision="trained", commit_message="Train more")
    assert hub.repositories[NAME].messages == ["Train more"]
    assert hub.files(NAME) == before
    assert open_repository(NAME, revision="trained").json("config.json") == {"model_type": "pushed"}
    assert open_repository(NAME, revision="trained").file("vocab.txt").read_bytes() == FILES["vocab.txt"]


def test_a_second_push(hub, cache):
    """To the repository and the branch that there are already."""
    before = hub.files(NAME)
    for number in range(2):
        push_folder("me/new", write, token="hf_mine", revision="trained")
        assert hub.repositories["me/new"].messages[-1] == "Upload a model with minitrans"
        push_folder(NAME, lambda folder, text=f"{number}": (folder / "a.txt").write_text(text), token="hf_mine")
        assert hub.files(NAME) == {**before, "a.txt": b"%d" % number}


def test_a_push_that_is_refused_or_cannot_be_written(hub, cache):
    with pytest.raises(PermissionError) as caught:
        push_folder("me/new", write)
    one_sentence(caught, "the upload to me/new", "HTTP 401", "token")
    hub.faults["upload"] = Fault(status=403, methods=("PUT",))
    with pytest.raises(PermissionError) as caught:
        push_folder(NAME, write, token="hf_mine")
    one_sentence(caught, f"the upload to {NAME}", "HTTP 403", "token")
    assert hub.files(NAME) == FILES

    def fails(folder: Path) -> None:
        raise RuntimeError("cannot write")

    with pytest.raises(RuntimeError, match="cannot write"):
        push_folder("me/new", fails, token="hf_mine")
    assert "me/new" not in hub.repositories
