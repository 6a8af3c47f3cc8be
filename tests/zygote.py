"""A process that has imported everything and forks for each command line.

Importing torch takes seconds, and so a program killed at twenty moments would mostly be killed
while it imports. The process itself never trains: torch's threads do not survive a fork.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
TO_END = (signal.SIGINT, signal.SIGTERM)


class Zygote:
    """Starts command lines in forked processes, each the leader of a group of its own."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)

    def start(self, *arguments, errors, before="", stdin=os.devnull, stdout=os.devnull, folder="."):
        """Process id of a command line that has begun.

        Parameters
        ----------
        errors
            File that gets its stderr.
        before
            Python code that it runs first.
        stdin, stdout
            Files.
        folder
            Where it runs.
        """
        return self._ask(start=[str(a) for a in arguments], before=before, files=[str(stdin), str(stdout), str(errors)],
                         folder=str(folder))

    def wait(self, pid):
        """Exit code of a process, negative where a signal ended it."""
        return self._ask(wait=pid)

    def run(self, *arguments, **more):
        """Exit code of a command line."""
        return self.wait(self.start(*arguments, **more))

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, **request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def serve():
    """Answer the requests on stdin."""
    # What comes before a command line has begun waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, TO_END)
    answers = os.fdopen(os.dup(1), "w")
    import drstool.inference  # noqa: F401
    from drstool.cli.commands import register
    import torchvision.transforms.v2  # noqa: F401
    from drstool.stages import (  # noqa: F401
        cam, eval, overlay, pseudo_label, refine, refine_train, saliency, segment, train_cls, train_seg,
    )

    register()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                become(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def become(request):
    """Be the program, from here to its exit."""
    code = 70
    try:
        os.setsid()
        os.chdir(request["folder"])
        for number, (path, flags) in enumerate(
                zip(request["files"], (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_APPEND))):
            descriptor = os.open(path, flags, 0o666)
            os.dup2(descriptor, number)
            os.close(descriptor)
        # What is left to read of the requests is not the program's.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["drstool", *request["start"]]
        exec(request["before"], {})
        from drstool.cli import main

        app = importlib.import_module("drstool.cli.app")
        prepare = app._terminate_cleanly

        def prepared():
            prepare()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_END)

        app._terminate_cleanly = prepared
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


if __name__ == "__main__":
    serve()
