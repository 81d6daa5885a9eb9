"""A hub whose answers are odd: headers, statuses, lengths and bytes. What is kept is what the repository holds."""

import random
import traceback
from pathlib import Path

from outcomes import Outcomes
from standin_hub import Fault, StandInHub

from minitrans.hub import open_repository

FILES = {"config.json": b'{"model_type": "bert"}', "model.safetensors": bytes(range(256)) * 8, "vocab.txt": b"[PAD]\n"}
NAMES = ["..", ".", "", "../../x", "/tmp/x", "a/b", "a\\b", "x" * 300, "v1", "ab-cd", "0" * 40, "0" * 64, "%2e%2e",
         "a b", "W/", "..a", "a..", "~", "-", ":", "COM1", "*"]  # fmt: skip
SECRET = "hf_thissecret"
TOKENS = [SECRET, f"{SECRET}\n", f" {SECRET}", f"{SECRET}\nx", f"{SECRET}\x7f", f"é{SECRET}"]


def fault(rng: random.Random) -> Fault:
    """One answer that is not as it should be."""
    header = rng.choice(["ETag", "X-Linked-Etag", "X-Repo-Commit", "X-Linked-Size", "Content-Length", "X-Error-Code"])
    quote = '"' if "tag" in header.lower() else ""
    return rng.choice(
        [
            Fault(headers={header: f"{quote}{rng.choice(NAMES)}{quote}"}),
            Fault(headers={"X-Linked-Etag": "", "ETag": f'"{rng.choice(NAMES)}"'}),
            Fault(flip=rng.randrange(2000)),
            Fault(cut_after=rng.randrange(40), announce_length=rng.random() < 0.5),
            Fault(status=rng.choice([200, 204, 301, 400, 401, 403, 404, 410, 416, 418, 429, 500, 503])),
            Fault(silent=True),
        ]
    )


def test_answers(tmp_path: Path, cases: int) -> None:
    rng, outcomes = random.Random(0), Outcomes("answers of a hub")
    with StandInHub({"org/tiny": FILES}) as hub:
        for number in range(cases):
            outside = tmp_path / str(number)
            (outside / "deep" / "deeper").mkdir(parents=True)
            with hub.connected(outside / "deep" / "deeper" / "cache"):
                filename, token = rng.choice([*FILES, "absent.json"]), rng.choice(TOKENS)
                hub.faults = {filename: fault(rng)} if rng.random() < 0.95 else {}
                case = (filename, token, hub.faults)

                def fetch(filename: str = filename, token: str = token) -> bytes | None:
                    try:
                        found = open_repository("org/tiny", token=token).find(filename)
                        return None if found is None else found.read_bytes()
                    except Exception as error:
                        if SECRET in "".join(traceback.format_exception(error)):
                            raise AssertionError("The token is printed.") from None
                        raise

                def right(found: bytes | None, filename: str = filename) -> bool:
                    says_nothing = (
                        hub.faults
                        and filename in hub.faults
                        and (hub.faults[filename].headers or hub.faults[filename].status in (404, 410))
                    )
                    return found == FILES.get(filename) or (found is None and bool(says_nothing))

                outcomes.judge(case, fetch, right)
                hub.faults = {}
                assert open_repository("org/tiny").json("config.json") == {"model_type": "bert"}, case
                found = {path.relative_to(outside).parts[:3] for path in outside.rglob("*") if path.is_file()}
                assert found == {("deep", "deeper", "cache")}, case
    outcomes.check()
