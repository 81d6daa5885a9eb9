"""From an id or a folder to the files of a checkpoint, and back: downloading, saving, pushing.

`huggingface_hub` does the transport, the cache and the progress bars, and reads HF_HOME, HF_ENDPOINT and
HF_HUB_OFFLINE. It is imported when a hub id is opened, never for a local folder. A file enters its cache when it
has the size that the hub announced, and stays there when it has the digest that its etag is. A hub is believed no
more than that: an etag or a commit that would lead out of the cache is refused.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from copy import copy
from pathlib import Path
from typing import Any

from typing_extensions import override

from minitrans import saving
from minitrans.saving import atomic_folder

DEEPEST = 100  # levels of lists and objects in a JSON file: what walks over them goes some 300 deep
LONGEST = 255  # bytes of a file's name


def open_repository(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
) -> "Repository":
    """Open a local folder, or else the repository of that id on the hub at `revision` (branch, tag or commit).

    A folder of that name wins over the hub, and only a string can be a hub id. Nothing is downloaded yet. Raises
    FileNotFoundError where the name is neither, ValueError for options that contradict each other and for a token
    that cannot be one, which no message shows.
    """
    name = _text_of(name_or_path)
    if force_download and local_files_only:
        raise ValueError("force_download=True asks for a download and local_files_only=True forbids it; choose one.")
    subfolder = _inside(subfolder).strip("/")
    if os.path.isdir(name):
        if not os.path.isdir(os.path.join(name, subfolder)):
            raise FileNotFoundError(f"{name} has no folder {subfolder}; it holds {_listing(Path(name))}.")
        return Repository(name, Path(name)).inside(subfolder)
    if os.path.isfile(name):
        raise NotADirectoryError(f"{name} is a file; give the folder that holds the checkpoint's files.")
    if not isinstance(name_or_path, str):
        raise FileNotFoundError(f"There is no folder {name}.")
    options = {"token": _alone(token), "cache_dir": cache_dir, "local_files_only": local_files_only}
    return HubRepository(name, subfolder, _inside(revision or "main"), {**options, "force_download": force_download})


def open_with(name_or_path: "Source", options: dict[str, Any], *files: str) -> tuple["Repository", dict[str, Any]]:
    """`open_repository` with those of `options` that are its own; return the repository and the other options.

    A repository that is open already is taken as it is, so that several parts of one checkpoint come from one commit.
    `files` are those of which the name may be one itself: a file by that name, or one that ends as the first such.
    """
    if isinstance(name_or_path, Repository):
        return name_or_path, options
    own = {key: value for key, value in options.items() if key in (open_repository.__kwdefaults__ or ())}
    rest = {key: value for key, value in options.items() if key not in own}
    if os.path.isfile(_text_of(name_or_path)):
        path = Path(name_or_path)
        alike = [file for file in files if Path(file).suffix == path.suffix]
        role = path.name if path.name in alike else next(iter(alike), None)
        if role is not None:
            return SingleFile(path, role), rest
    return open_repository(name_or_path, **own), rest


def _text_of(name_or_path: Any) -> str:
    """The text of a name or path; TypeError or ValueError for what is neither."""
    name = os.fspath(name_or_path) if isinstance(name_or_path, os.PathLike) else name_or_path
    if not isinstance(name, str):
        raise TypeError(f"A model is named by its folder or by its id on the hub, not by {name_or_path!r:.80}.")
    if not name:
        raise ValueError("A model is named by its folder or by its id on the hub, not by ''.")
    return name


def parsed(text: str) -> Any:
    """The content of a JSON file; ValueError for other text, half a surrogate pair, and more than DEEPEST levels."""
    content = json.loads(text)
    json.dumps(content, ensure_ascii=False).encode("utf-8")
    level, depth = [content], 0
    while level:
        level = [item for value in level if isinstance(value, (dict, list))
                 for item in (value.values() if isinstance(value, dict) else value)]  # fmt: skip
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} levels")
    return content


_JSON: dict[type, str] = {dict: "object", list: "list"}


class Repository:
    """The files of one checkpoint in a local folder. `name` is what the caller wrote, for messages."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        saving.settle(folder)

    def file(self, *filenames: str) -> Path:
        """Return the local path of the first of `filenames` that exists.

        FileNotFoundError, where none does, says what was looked for and what is there.
        """
        path = self.find(*filenames)
        if path is None:
            raise FileNotFoundError(self.absence(*filenames))
        return path

    def find(self, *filenames: str) -> Path | None:
        """Return the local path of the first of `filenames` that exists, None where none does.

        Where the hub may not be asked, a file that a cached download lacks does not exist. Raises OSError where that
        cannot be known: nothing is cached, or the hub does not respond. ValueError for a path that leads out of the
        repository.
        """
        paths = (self._locate(_inside(filename)) for filename in filenames)
        return next((path for path in paths if path is not None), None)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in one of its folders; none where there is no such folder."""
        return sorted(path.name for path in (self._folder / _inside(folder)).glob("*") if path.is_file())

    def inside(self, folder: str) -> "Repository":
        """Return the repository of one of its folders, at the same commit; ValueError for a path that leads out."""
        other = copy(self)
        other._enter(_inside(folder).strip("/"))
        return other

    def json(self, filename: str, kind: type = dict) -> Any:
        """Return the JSON object in `filename`, or what `kind` says; ValueError where the file holds anything else."""
        path = self.file(filename)
        try:
            content = parsed(path.read_bytes().decode("utf-8"))
        except (ValueError, RecursionError) as error:
            self._spoilt(path)
            raise ValueError(f"{filename} of {self.name} cannot be read as JSON ({error}); see {path}.") from error
        if not isinstance(content, kind):
            found = type(content).__name__
            raise ValueError(f"{filename} of {self.name} should hold a JSON {_JSON[kind]}, not a {found}; see {path}.")
        return content

    def unchanged(self) -> AbstractContextManager[None]:
        """While the block runs, no `atomic_folder` changes the files; OSError where a killed one cannot be ended."""
        return saving.unchanged(self._folder)

    def identity(self) -> str:
        """Return what tells the checkpoint from any other: a digest of its files, and of those of its parts.

        A part is a folder below with a config.json of its own; others may hold what was made with the checkpoint.
        """
        digest = hashlib.sha256()
        folders = {self._folder, *(path.parent for path in self._folder.glob("*/config.json"))}
        for path in sorted(path for folder in folders for path in folder.glob("*.*")):
            if path.suffix in (".json", ".txt", ".safetensors", ".bin") and path.is_file():
                digest.update(f"{path.relative_to(self._folder).as_posix()} {path.stat().st_size}\n".encode())
                with path.open("rb") as stream:
                    while content := stream.read(2**20):
                        digest.update(content)
        return digest.hexdigest()

    def _spoilt(self, path: Path) -> None:
        """A file that is not what it should be stays: it is the user's."""

    def _enter(self, folder: str) -> None:
        self._folder = self._folder / folder
        saving.settle(self._folder)

    def _locate(self, filename: str) -> Path | None:
        path = self._folder / filename
        return path if path.is_file() else None

    def absence(self, *filenames: str) -> str:
        """Say that none of `filenames` is there, and what is."""
        holds = f"which holds {_listing(self._folder)}"
        if len(filenames) > 1:
            return f"{self.name} has no {' and no '.join(filenames)} in {self._folder}, {holds}."
        return f"{filenames[0]} is missing in {self._folder}, {holds}."


Source = str | os.PathLike[str] | Repository  # a folder, a hub id, or what was opened by one of them


class SingleFile(Repository):
    """One file that was named by its own path, whatever its name, as the only file of a checkpoint: its `role`."""

    def __init__(self, path: Path, role: str) -> None:
        super().__init__(str(path), path.parent)
        self._path, self._role = path, role

    def _locate(self, filename: str) -> Path | None:
        return self._path if filename == self._role else None


class HubRepository(Repository):
    """The files of a repository on the hub, each downloaded when first asked for, all from one commit.

    The first response says which commit the revision stands for, and everything after is asked of that commit, so
    that a push in between cannot mix two versions.
    """

    def __init__(self, name: str, subfolder: str, revision: str, options: dict[str, Any]) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(name)
        except HFValidationError:
            raise FileNotFoundError(
                f"{name!r} is neither a folder here nor an id on the hub, which has the form 'name' or 'owner/name'."
            ) from None
        self.name = name
        self._subfolder = subfolder
        self._revision = revision
        self._commit: str | None = None
        self._options = options
        self._located: dict[str, Path | None] = {}
        self._left_out: set[str] = set()  # what the cache lacks, and nobody may be asked for
        self._fetched: list[Path] = []

    def unchanged(self) -> AbstractContextManager[None]:
        """Nothing to do: all files are of one commit."""
        return nullcontext()

    def identity(self) -> str:
        """Return the commit, which says the same of a repository on the hub."""
        self.file("config.json")
        return str(self._commit)

    def _spoilt(self, path: Path) -> None:
        """A file that was just fetched and is not what it should be goes, so that it is fetched again."""
        if path in self._fetched:
            _discard(path)
            self._located = {}

    def _enter(self, folder: str) -> None:
        self._subfolder = f"{self._subfolder}/{folder}".strip("/")
        self._located = {}

    def _locate(self, filename: str) -> Path | None:
        if filename not in self._located:
            self._located[filename] = self._download(f"{self._subfolder}/{filename}".lstrip("/"))
        return self._located[filename]

    def _download(self, path: str) -> Path | None:
        from huggingface_hub import errors, hf_hub_download

        if self._commit is not None and self._known_absent(path):
            return None
        try:
            with _listening() as heard:
                local = hf_hub_download(self.name, path, revision=self._commit or self._revision, **self._options)
        except errors.RemoteEntryNotFoundError as error:
            self._commit = self._commit or error.response.headers.get("X-Repo-Commit")
            return None
        except Exception as error:
            out_of_reach = isinstance(error, errors.LocalEntryNotFoundError)
            if out_of_reach and self._known_absent(path):
                return None
            if out_of_reach and self._is_cached():
                self._left_out.add(path)
                return None
            raise _explained(error, self.name, self._revision, f"{path} of {self.name}") from None
        if (damage := _damage(Path(local), heard)) is not None:
            _discard(Path(local))
            raise ConnectionError(
                f"{path} of {self.name} did not arrive whole from {_endpoint()}: {damage}; try again."
            )
        if "fetched" in heard:
            self._fetched.append(Path(local))
        self._commit = Path(local).parts[-1 - len(Path(path).parts)]  # …/snapshots/<commit>/<path>
        return Path(local)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in one of its folders: those on the hub or, offline, those in the cache."""
        from huggingface_hub import HfApi, errors

        place = f"{self._subfolder}/{_inside(folder)}".strip("/")
        try:
            if self._options["local_files_only"]:
                raise errors.OfflineModeIsEnabled
            api = HfApi(token=self._options["token"])
            found = api.list_repo_files(self.name, revision=self._commit or self._revision)
        except (errors.OfflineModeIsEnabled, ConnectionError):
            try:
                cached = self._cached()
            except errors.LocalEntryNotFoundError as error:
                raise _explained(error, self.name, self._revision, f"the list of files of {self.name}") from None
            found = [path.relative_to(cached).as_posix() for path in cached.rglob("*")]
        except Exception as error:
            raise _explained(error, self.name, self._revision, f"the list of files of {self.name}") from None
        return sorted(name.rpartition("/")[2] for name in found if name.rpartition("/")[0] == place)

    def _known_absent(self, path: str) -> bool:
        """Whether the hub has said so before: the cache keeps a mark of that."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        return try_to_load_from_cache(self.name, path, **self._snapshot()) is _CACHED_NO_EXIST

    def _is_cached(self) -> bool:
        """Whether the cache has to do, and holds a download of the revision: what is not there is left out.

        Where the hub may be asked and does not respond, that takes a complete one. Every repository has a
        .gitattributes, and nobody but `hf download` and `snapshot_download` fetches it.
        """
        from huggingface_hub import constants, errors

        try:
            folder = self._cached()
        except errors.LocalEntryNotFoundError:
            return False
        is_offline = self._options["local_files_only"] or constants.HF_HUB_OFFLINE
        return is_offline or (folder / ".gitattributes").exists()

    def _cached(self) -> Path:
        """The folder of the revision in the cache, whole or not; LocalEntryNotFoundError where there is none."""
        from huggingface_hub import snapshot_download

        # No patterns: newer versions refuse a folder that lacks what was asked for.
        return Path(snapshot_download(self.name, local_files_only=True, allow_patterns=[], **self._snapshot()))

    def _snapshot(self) -> dict[str, Any]:
        return {"revision": self._commit or self._revision, "cache_dir": self._options["cache_dir"]}

    @override
    def absence(self, *filenames: str) -> str:
        paths = [f"{self._subfolder}/{name}".lstrip("/") for name in filenames]
        if self._left_out.intersection(paths):
            what = f"{' or '.join(paths)} of {self.name}"
            return _NOT_CACHED.format(what=what, revision=self._revision, hub=_endpoint())
        place = f"{_endpoint()}/{self.name}/tree/{self._commit or self._revision}/{self._subfolder}".rstrip("/")
        return f"{' or '.join(filenames)} is missing in {self.name} at revision {self._revision}; see {place}."


_NOT_CACHED = (
    "{what} (revision {revision}) is not in the cache, and HF_HUB_OFFLINE or local_files_only forbids asking {hub}; "
    "open it once without, or give a local folder."
)
_NO_REPOSITORY = "{name!r} is neither a folder here nor a repository on {hub}; a private one needs token=."

# An error of huggingface_hub, the built-in one to raise instead, and its sentence. The first that fits counts.
_SENTENCES: tuple[tuple[str, type[OSError], str], ...] = (
    ("GatedRepoError", PermissionError, "{name} is gated: ask for access at {hub}/{name}, then pass your token=."),
    ("RepositoryNotFoundError", FileNotFoundError, _NO_REPOSITORY),
    ("LocalTokenNotFoundError", PermissionError, "token=True, but no token is stored here; pass the token itself."),
    ("RevisionNotFoundError", FileNotFoundError, "{name} has no revision {revision!r} on {hub}."),
    ("OfflineModeIsEnabled", FileNotFoundError, _NOT_CACHED),
    ("LocalEntryNotFoundError", FileNotFoundError, _NOT_CACHED),
)


def _explained(error: BaseException, name: str, revision: str, what: str) -> OSError:
    """Turn what huggingface_hub raised into a built-in error whose message is one sentence.

    It is raised `from None`: what lies below may show the token, or an address that is signed.
    """
    from huggingface_hub import errors

    hub = _endpoint()
    while error.__cause__ and isinstance(error, (errors.LocalEntryNotFoundError, ValueError, RuntimeError)):
        error = error.__cause__
    for kind, built_in, sentence in _SENTENCES:
        if isinstance(error, getattr(errors, kind)):
            return built_in(sentence.format(name=name, revision=revision, what=what, hub=hub))
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return PermissionError(f"{hub} refused {what} (HTTP {status}): check the token and its rights.")
        return ConnectionError(f"{hub} responded with HTTP {status} for {what}; try again later or check HF_ENDPOINT.")
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, f"{what} could not be stored: {error.strerror}", error.filename)
    reason = _public(str(error).strip().split("\n")[0] or type(error).__name__)
    if "Bearer" in reason:  # a header that cannot be sent, with all that is in it
        reason = "the stored token, or that of HF_TOKEN, holds characters that no token has."
    return ConnectionError(f"{what} could not be exchanged with {hub}: {reason}")


def _endpoint() -> str:
    from huggingface_hub import constants

    return _public(constants.ENDPOINT)


def _public(text: str) -> str:
    """A text without the name and password that an address in it may hold."""
    return re.sub(r"(?<=//)[^/\s@]*@", "", text)


def _alone(token: str | bool | None) -> str | bool | None:
    """A token without the white space around it, such as the line break of a file; None where nothing is left."""
    if token is None or isinstance(token, bool):
        return token
    if not isinstance(token, str):
        raise TypeError(f"token is of type {type(token).__name__}; it must be text, or True for the one stored here.")
    token = token.strip()
    if not re.fullmatch("[!-~]*", token):  # never shown
        raise ValueError("token= holds white space or other characters that no token has; pass the token alone.")
    return token or None


# What a download heard from the hub: the etag of the file, and whether bytes came.
_heard: ContextVar[dict[str, str] | None] = ContextVar("_heard", default=None)
# What is safe as a file's name, in which huggingface_hub stores a file or what it says of a commit.
_SAFE = re.compile(r"(?!\.+$)[\w.,;=+~@-]{1,200}", re.ASCII)


@contextmanager
def _listening() -> Iterator[dict[str, str]]:
    """Hear the hub's responses while a file is fetched; ValueError where one names a place outside the cache.

    huggingface_hub takes an etag and a commit as names of files, as they are in the response that is heard here.
    """
    from huggingface_hub import get_session

    hooks = get_session().event_hooks["response"]
    if _hear not in hooks:
        hooks.append(_hear)
    heard: dict[str, str] = {}
    before = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(before)


def _hear(response: Any) -> None:
    heard = _heard.get()
    if heard is None:  # somebody else's request
        return
    if response.request.method == "GET":
        heard["fetched"] = "yes"
        return
    etag = response.headers.get("X-Linked-Etag") or response.headers.get("ETag")
    found = {"etag": etag and etag.lstrip("W/").strip('"'), "commit": response.headers.get("X-Repo-Commit")}
    for name, value in found.items():
        if value is not None and not _SAFE.fullmatch(value):
            raise ValueError(f"its response has the {name} {value[:80]!r}, which is not a name, and was refused.")
    heard["etag"] = found["etag"] or ""


def _damage(path: Path, heard: dict[str, str]) -> str | None:
    """What is wrong with a file that was just downloaded, None where it is as announced or nothing tells.

    The etag of a large file is its SHA-256, that of a small one the SHA-1 that git gives it, or of a mirror the plain.
    """
    etag = heard.get("etag", "").lower()
    kinds = {64: ("sha256", (b"",)), 40: ("sha1", (b"blob %d\0" % path.stat().st_size, b""))}
    if "fetched" not in heard or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", etag):
        return None
    kind, beginnings = kinds[len(etag)]
    digests = [hashlib.new(kind, beginning) for beginning in beginnings]
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            for digest in digests:
                digest.update(block)
    found = [digest.hexdigest() for digest in digests]
    return None if etag in found else f"its {kind.upper()} is {found[0]}, and {etag} was announced"


def _discard(path: Path) -> None:
    """Take a file out of the cache, and what its link leads to."""
    target = path.resolve()
    path.unlink(missing_ok=True)
    target.unlink(missing_ok=True)


def _inside(path: str) -> str:
    """Return `path`, refusing one that leads out of the repository, as a hostile index file might name, or nowhere."""
    if "\0" in path or len(path.encode("utf-8", "replace")) > LONGEST:
        raise ValueError(f"{path!r:.80} cannot be the name of a file; up to {LONGEST} bytes can, and none of them 0.")
    if re.search(r"^[\\/]|^\w:|(^|[\\/])\.\.([\\/]|$)", path):
        raise ValueError(f"{path!r} points outside the checkpoint's folder and was refused.")
    return path


def _listing(folder: Path, limit: int = 12) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return (", ".join(names[:limit]) or "nothing") + (f" and {len(names) - limit} more" if len(names) > limit else "")


def save_files(folder: str | os.PathLike[str], write: Callable[[Path], object]) -> list[str]:
    """Put what `write(folder)` writes into `folder`, all of it or nothing; return the paths of the files, sorted."""
    with atomic_folder(folder) as files:
        write(files)
        names = sorted(str(path.relative_to(files)) for path in files.rglob("*") if path.is_file())
    return [os.path.join(folder, name) for name in names]


def push_folder(
    repo_id: str,
    write: Callable[[Path], object],
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload what `write(folder)` puts into a temporary folder, as one commit; return the commit's address.

    The repository is made where there is none, and so is the branch `revision`. Raises OSError with one sentence.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    api = HfApi(token=_alone(token))
    # The bars of a download ask for a terminal by themselves.
    silence = nullcontext() if sys.stderr.isatty() else disable_progress_bars()
    with silence, tempfile.TemporaryDirectory(prefix="minitrans-push-") as folder:
        save_files(folder, write)
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or "Upload a model with minitrans",
                revision=revision,
            ).commit_url
        except Exception as error:
            raise _explained(error, repo_id, revision or "main", f"the upload to {repo_id}") from None


class Saved:
    """What can be saved to a folder and pushed to the hub: a subclass says what, in `write_files(folder)`."""

    def write_files(self, folder: Path) -> None:
        """Write all files into an existing folder."""
        raise NotImplementedError

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **push: Any,
    ) -> list[str]:
        """Write all files into a folder, readable by transformers too; return their paths.

        Files of the same name are replaced together at the end, or not at all. `push_to_hub=True` uploads them too,
        to `repo_id` (by default the folder's name), with the options of `minitrans.hub.push_folder`.
        """
        refuse_without_push(push_to_hub, push)
        paths = save_files(save_directory, self.write_files)
        if push_to_hub:
            self.push_to_hub(repo_id or Path(save_directory).name, **push)
        return paths

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload as one commit and return its address; `options` as in `minitrans.hub.push_folder`."""
        return push_folder(repo_id, self.write_files, **options)


def refuse_without_push(push_to_hub: bool, options: Mapping[str, Any]) -> None:
    """Raise TypeError for options of an upload where nothing is uploaded, before anything is written."""
    if options and not push_to_hub:
        raise TypeError(f"save_pretrained() got an unexpected keyword argument {next(iter(options))!r}.")
