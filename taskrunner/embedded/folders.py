"""Where the private server's files are: its home, and the folder of its socket."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from taskrunner.embedded.account import Account, account_for
from taskrunner.errors import EmbeddedError

ELSEWHERE = Path("/var/lib/taskrunner")
SOCKET_PATH_BYTES = 85  # sun_path holds 108 bytes on Linux and 104 on macOS, `/.s.PGSQL.5432` included


@dataclass(frozen=True)
class Home:
    """The folder that holds `pgdata`, the log and the locks of one server, and the account it runs as."""

    folder: Path
    account: Account

    @property
    def data(self) -> Path:
        """PostgreSQL's own folder."""
        return self.folder / "pgdata"

    @property
    def log(self) -> Path:
        """What the server and its keeper have said."""
        return self.folder / "server.log"

    @property
    def state(self) -> Path:
        """The file in which the keeper says where the server's socket is and which version it has."""
        return self.folder / "server.json"


def home_in(folder: Path) -> Home:
    """Return the home `folder`, made if need be; one elsewhere if root's server cannot enter it."""
    folder, elsewhere = _places(folder)
    # Data stay where they are, whatever the modes of the folders above have become.
    if (known := _inhabited(folder, elsewhere)) is not None:
        return _entered(Home(known, account_for(known / "pgdata")))
    account = account_for(folder / "pgdata")
    _make(folder, shared=account.switch)
    if account.reaches(folder):
        return Home(folder, account)
    _make(elsewhere.parent, shared=True)
    _make(elsewhere, shared=True)
    return _entered(Home(elsewhere, account))


def has_data(folder: Path) -> bool:
    """Tell whether a server has its data in the home `folder`, or elsewhere for it; nothing is made."""
    return _inhabited(*_places(folder)) is not None


def _places(folder: Path) -> tuple[Path, Path]:
    """Return the home that is asked for, and the one that root's server has instead where it cannot enter that."""
    folder = folder.resolve()
    return folder, ELSEWHERE / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]


def _inhabited(folder: Path, elsewhere: Path) -> Path | None:
    places = (folder, elsewhere) if os.geteuid() == 0 else (folder,)
    return next((place for place in places if (place / "pgdata").exists()), None)


def socket_folder(home: Home) -> Path:
    """Return the folder for the server's socket, 0700 and the account's own: in the home, or a short one elsewhere."""
    folder = home.folder / "socket"
    if not _fits(folder):
        folder = _short_folder(home)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        home.account.own(folder)
        folder.chmod(0o700)
        found = folder.lstat()
    # In a temporary directory somebody else may have been first: a link, or a folder of theirs.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != home.account.uid or found.st_mode & 0o077:
        raise EmbeddedError(f"{folder} is not a private folder of user {home.account.uid}: remove it")
    return folder


def _entered(home: Home) -> Home:
    if not home.account.reaches(home.folder):
        raise EmbeddedError(
            f"the server of {home.data} runs as user {home.account.uid}, who cannot enter that folder: "
            f"open the folders above it (`chmod o+x`), or set DATABASE_URL"
        )
    return home


def _make(folder: Path, *, shared: bool) -> None:
    if folder.exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedError(f"cannot make {folder} for the private server: {error}; set DATABASE_URL") from error
    if shared:
        folder.chmod(0o755)  # whatever the umask: the server's account must get through


def _short_folder(home: Home) -> Path:
    name = f"taskrunner-{home.account.uid}-{hashlib.sha256(os.fsencode(home.folder)).hexdigest()[:12]}"
    temporary = Path(tempfile.gettempdir())
    if not _fits(temporary / name) or not home.account.reaches(temporary):
        temporary = Path("/tmp")  # noqa: S108  the folder in it is checked for owner and mode
    return temporary / name


def _fits(folder: Path) -> bool:
    # unix_socket_directories is a list: a comma, a quote or a blank in a path would need quoting there.
    return len(os.fsencode(folder)) <= SOCKET_PATH_BYTES and not set(",\"' \t\n") & set(str(folder))
