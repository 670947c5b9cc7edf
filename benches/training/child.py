"""A contender in a process of its own: `python -m benches.training.child JOB`, which remote.py starts.

JOB is JSON: {"setting", "contender", "folder"}. Each answer is a line of JSON on stdout: first {"ready": its
name, "note"}, then {"seconds"} to each line {"steps", "source"} of stdin; {"absent"} or {"failed"} with the reason end
it. Whatever else is printed goes to stderr.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from benches.core.peers import Absent
from benches.training.contenders import CONTENDERS
from benches.training.setting import Setting
from benches.training.turns import Local


def serve(job: dict[str, Any], answer: Any) -> None:
    """Make the contender and its source, then take turns until stdin ends."""
    setting = Setting(**job["setting"])
    torch.set_num_threads(setting.threads or torch.get_num_threads())
    torch.backends.cudnn.benchmark = True
    seat = Local(lambda: CONTENDERS[job["contender"]](setting, Path(job["folder"])), setting)
    seat.open()
    answer({"ready": seat.name, "note": seat.note})
    for line in sys.stdin:
        asked = json.loads(line)
        answer({"seconds": seat.turn(asked["steps"], asked["source"])})
    seat.close()


def reason(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def main() -> None:
    """The command."""
    own = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(told: dict[str, Any]) -> None:
        own.write(json.dumps(told) + "\n")

    try:
        serve(json.loads(sys.argv[1]), answer)
    except Absent as why:
        answer({"absent": str(why)})
    except Exception as error:  # whatever a peer fails with, its row tells and the others go on
        answer({"failed": reason(error)})


if __name__ == "__main__":
    main()
