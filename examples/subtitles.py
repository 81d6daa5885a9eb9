"""Subtitles from sound: `python examples/subtitles.py [MODEL FILE]` prints a SubRip file.

MODEL is a folder or hub id of a Wav2Vec2 CTC checkpoint and FILE a recording of any length. Without them,
examples/whistles.py trains a tiny model on a language of five whistled letters, and this whistles to it.
"""

import sys

from minitrans import Transcriber
from minitrans.tasks.subtitles import srt

if len(sys.argv) > 2:
    transcriber, sound = Transcriber.from_pretrained(sys.argv[1]), sys.argv[2]
else:
    from whistles import RATE, train, whistle

    lines = ("AIO UE OA", "EE IOU", "OUI AIE EAU")
    transcriber, sound = Transcriber(*train()), (whistle((" " * 4).join(lines)), RATE)
    print(f"{len(sound[0]) / RATE:.1f} seconds of whistling: {', '.join(lines)}\n")

transcript = transcriber(sound, chunk_seconds=10.0, characters=True)  # long recordings are processed in chunks
print("\n".join(srt(transcript["words"], transcript["characters"])))
