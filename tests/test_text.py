"""Command lines: what they print anywhere, and how they end."""

import errno
import io
import os
import subprocess
import sys

import pytest

from lvae_min.io import text


def test_a_command_prints_what_an_encoding_lacks_as_an_escape_and_without_a_stream_nothing(monkeypatch):
    octets = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(octets, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", None)
    text.Parser()
    print("é", flush=True)
    print("lost", file=sys.stderr, flush=True)
    assert octets.getvalue() == b"\\xe9\n"
    sys.stderr.close()


@pytest.mark.skipif(os.name == "nt", reason="closes the output by the shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_without_output_does_its_work(tmp_path, closed):
    table = tmp_path / "codes.npz"
    program = f"""if True:
        import sys, numpy as np
        from lvae_min import metrics
        from lvae_min.io.text import carry_out
        np.savez({str(table)!r}, factors=np.arange(800).reshape(-1, 2) % 4, codes=np.ones((400, 2)))
        code = carry_out(metrics.main, [{str(table)!r}], "metrics")
        print("é", sys.stdout.isatty(), file=sys.stderr if sys.stdout.name == 1 else sys.stdout)
        sys.exit(code)
    """
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", program],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "") and ("factors" in done.stdout) == (closed == "2>&-")


@pytest.mark.parametrize(
    "ends, code, message",
    [
        (ValueError("no\ncodes"), 2, "encode: no codes\n"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 9), 2, "encode: [Errno 36] File name too"),
        (MemoryError(), 2, "encode: MemoryError\n"),
        (KeyboardInterrupt(), 130, "encode: stopped\n"),
        (None, 0, ""),
    ],
)
def test_a_command_ends_with_one_line_at_most(capsys, ends, code, message):
    def main(arguments):
        if ends is not None:
            raise ends

    assert text.carry_out(main, [], "encode") == code
    found = capsys.readouterr().err
    assert found.startswith(message) and found.count("\n") == bool(message)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("ends", ["pass", "raise ValueError('bad codes')"])
def test_a_full_disk_is_one_line_at_the_end(ends):
    program = f"""if True:
        import sys
        from lvae_min.io.text import carry_out
        def main(_):
            print("a score")
            {ends}
        sys.exit(carry_out(main, [], "encode"))
    """
    environment = {**os.environ}
    environment.pop("PYTHONUNBUFFERED", None)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
    message = "No space left" if ends == "pass" else "bad codes"
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
