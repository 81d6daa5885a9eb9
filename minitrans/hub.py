"""From an id or a folder to the files of a checkpoint, and back: downloading, atomic saving, pushing.

`huggingface_hub` does the transport and the cache (with HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and its progress bars,
which show on a terminal only). It is imported when a hub id is opened, never for a local folder.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
    FileNotFoundError where the name is neither, ValueError for options that contradict each other.
    """
    name = os.fspath(name_or_path)
    if not isinstance(name, str) or not name:
        raise ValueError(f"A model is named by its folder or by its id on the hub, not by {name_or_path!r}.")
    if force_download and local_files_only:
        raise ValueError("force_download=True asks for a download and local_files_only=True forbids it; choose one.")
    _refuse_escape(subfolder)
    if os.path.isdir(name):
        folder = Path(name, subfolder)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"The folder {name} has no folder {subfolder} inside; it has {_listing(Path(name))}."
            )
        return Repository(name, folder)
    if os.path.isfile(name):
        raise NotADirectoryError(f"{name} is a file; give the folder that holds the checkpoint's files.")
    if not isinstance(name_or_path, str):
        raise FileNotFoundError(f"There is no folder {name}.")
    return HubRepository(
        name,
        subfolder,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )


class Repository:
    """The files of one checkpoint in a local folder. `name` is what the caller wrote, for messages."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder

    def file(self, filename: str) -> Path:
        """Return the local path of `filename`, or raise FileNotFoundError saying what was looked for and where."""
        path = self.find(filename)
        if path is None:
            raise FileNotFoundError(f"{self.name} has no file {filename}{self._whereabouts()}")
        return path

    def find(self, *filenames: str) -> Path | None:
        """Return the local path of the first of `filenames` that exists, None where none does."""
        for filename in filenames:
            _refuse_escape(filename)
            path = self._locate(filename)
            if path is not None:
                return path
        return None

    def json(self, filename: str) -> dict[str, Any]:
        """Return the JSON object in `filename`; ValueError where the file holds anything else."""
        path = self.file(filename)
        try:
            content = json.loads(path.read_bytes().decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{filename} of {self.name} is not readable as JSON ({error}): {path}.") from error
        if not isinstance(content, dict):
            raise ValueError(f"{filename} of {self.name} holds a {type(content).__name__}, not a JSON object: {path}.")
        return content

    def _locate(self, filename: str) -> Path | None:
        path = self._folder / filename
        return path if path.is_file() else None

    def _whereabouts(self) -> str:
        return f"; the folder {self._folder} holds {_listing(self._folder)}."


class HubRepository(Repository):
    """The files of a repository on the hub, each downloaded when first asked for, all from one commit.

    The first answer of the hub names the commit that the revision stands for; everything after is asked of that
    commit, so that a push in between cannot mix two versions.
    """

    def __init__(self, name: str, subfolder: str, revision: str | None, **options: Any) -> None:
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
        self._revision = revision or "main"
        self._commit: str | None = None
        self._options = options

    def _locate(self, filename: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        remote = f"{self._subfolder}/{filename}" if self._subfolder else filename
        try:
            path = hf_hub_download(self.name, remote, revision=self._commit or self._revision, **self._options)
        except RemoteEntryNotFoundError as error:
            self._commit = self._commit or error.response.headers.get("X-Repo-Commit")
            return None
        except Exception as error:
            raise self._explained(error, remote) from error
        # .../snapshots/<commit>/<remote>
        self._commit = Path(path).parts[-1 - len(Path(remote).parts)]
        return Path(path)

    def _whereabouts(self) -> str:
        where = f" in its folder {self._subfolder}" if self._subfolder else ""
        return (
            f"{where} at revision {self._revision} ({_endpoint()}/{self.name}/tree/{self._commit or self._revision})."
        )

    def _explained(self, error: Exception, filename: str) -> Exception:
        return _explain(error, self.name, self._revision, filename)


def _explain(error: Exception, name: str, revision: str, filename: str) -> Exception:
    """Turn an error of huggingface_hub into a built-in one whose message is one sentence."""
    from huggingface_hub import errors

    hub = _endpoint()
    while error.__cause__ is not None and isinstance(error, (errors.LocalEntryNotFoundError, ValueError)):
        error = error.__cause__  # type: ignore[assignment]
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.GatedRepoError):
        return PermissionError(
            f"{name} is gated: ask for access at {hub}/{name} and pass token= of the account that has it."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(
            f"{name!r} is neither a folder here nor a repository on {hub}; a private one needs token=."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f"{name} has no revision {revision!r} on {hub}.")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return FileNotFoundError(
            f"{filename} of {name} (revision {revision}) is not in the cache, and HF_HUB_OFFLINE forbids a download."
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return FileNotFoundError(
            f"{filename} of {name} (revision {revision}) is not in the cache, and local_files_only=True "
            "forbids a download."
        )
    if status in (401, 403):
        return PermissionError(f"{hub} refused {filename} of {name} (HTTP {status}): check the token.")
    if status is not None:
        return OSError(
            f"{hub} answered HTTP {status} for {filename} of {name} and the cache has no copy; try again later."
        )
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return OSError(f"{filename} of {name} could not be fetched from {hub}: {reason}")


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _refuse_escape(filename: str) -> None:
    """Raise ValueError for a path that leads out of the repository, as a hostile index file might name."""
    if os.path.isabs(filename) or re.match(r"[\\/]|\w:", filename) or ".." in re.split(r"[\\/]", filename):
        raise ValueError(f"{filename!r} points outside the checkpoint's folder; it was refused.")


def _listing(folder: Path, limit: int = 12) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "nothing"


@contextmanager
def atomic_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary folder whose files replace those of the same name in `folder` when the block ends well.

    Where the block raises, nothing changes and the temporary folder is gone; where the process is killed, the old
    files stay as they were. The temporary folder lies inside `folder`, the one place that is certain to be on the
    same file system and writable. Every file is on the disk before the first is renamed into its place.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give the folder to save into.")
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        yield temporary
        # Weights come last: until they are replaced the folder still loads as the old checkpoint.
        files = sorted((path for path in temporary.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        for path in files:
            with path.open("r+b") as stream:
                os.fsync(stream.fileno())
        for path in files:
            target = folder / path.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not existed and not any(folder.iterdir()):
            folder.rmdir()


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

    The repository is made where there is none, and so is the branch `revision`.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="minitrans-push-") as folder:
        write(Path(folder))
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message or "Upload model"
            )
        except Exception as error:
            raise _explain(error, repo_id, revision or "main", "the upload") from error
    return commit.commit_url
