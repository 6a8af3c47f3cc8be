"""A program ``drstool`` that starts at once: a server that has imported everything forks for each command line.

In a shell script it stands for the real one: the same arguments, files, pipes, folder and exit code.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
_MOST_BYTES = 1 << 16

# What a shell calls: it hands its arguments, its folder and its open files to the server, and waits for an exit code.
_CLIENT = """#!{python} -IS
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
arguments = sys.argv[1:]
more, known = {more!r}.get(arguments[0] if arguments else "", {{}}), {{word.partition("=")[0] for word in arguments}}
for option, values in more.items():
    arguments += [option, *values] if option in {always!r} or option not in known else []
socket.send_fds(connection, [json.dumps([os.getcwd(), arguments]).encode()], [0, 1, 2])
sys.exit(int(connection.recv(16) or 70))
"""


class Forking:
    """Serves the program.

    Parameters
    ----------
    folder
        Where the server's socket lies, and a folder ``bin`` for PATH with the programs ``drstool`` and ``python``.
    more
        Options to add by command, each with its values, unless the command line has them.
    always
        Options that are added even then, and take the place of those.
    """

    def __init__(self, folder, more, always=()):
        self.folder = Path(folder)
        address, bin = str(self.folder / "socket"), self.folder / "bin"
        bin.mkdir()
        (bin / "drstool").write_text(
            _CLIENT.format(python=sys.executable, address=address, more=more, always=tuple(always)))
        (bin / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        for program in bin.iterdir():
            program.chmod(0o755)
        self.environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": f"{bin}:{os.environ['PATH']}"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, address], env=self.environment, stdout=subprocess.PIPE)
        # It can be asked from here on.
        assert self._process.stdout.readline() == b"ready\n"

    def bash(self, script, folder):
        """A script of bash that ends where a command fails."""
        return subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script], cwd=folder, env=self.environment, capture_output=True,
            text=True, stdin=subprocess.DEVNULL, timeout=300)

    def close(self):
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()


def serve(address):
    """Answer all requests, each in a process of its own."""
    import torchvision.transforms.v2  # noqa: F401

    import drstool.inference  # noqa: F401
    from drstool.cli.commands import register
    from drstool.stages import (  # noqa: F401
        cam, crf, eval, overlay, pseudo_label, refine, refine_train, saliency, segment, train_cls, train_seg,
    )

    register()
    # Nobody waits for those that have ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(16)
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            if not os.fork():
                server.close()
                become(connection)
            connection.close()


def become(connection):
    """Be the program, from here to its exit."""
    code = 70
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        content, files, *_ = socket.recv_fds(connection, _MOST_BYTES, 3)
        folder, arguments = json.loads(content)
        os.chdir(folder)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        sys.argv = ["drstool", *arguments]
        from drstool.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(str(code).encode())
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
