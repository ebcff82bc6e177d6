"""Python programs that take turns with their test: a line each way, and an end that is not far."""

import subprocess

from portway_testkit.waiting import PATIENCE

# What the programs begin with: they and their test tell each other when to go on.
PREAMBLE = """
import os, signal, sys, threading, time
import portway

def tell(text):
    os.write(1, f"{text}\\n".encode())  # at once: parent and child may tell at the same time

def wait_to_be_told():
    sys.stdin.readline()

def in_child(function):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return child

def check(child):
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status}"
"""


def ended(program: "subprocess.Popen[str]", code: int = 0) -> str:
    """Wait for its end, which is not far; what it wrote to standard error."""
    out, errors = program.communicate(timeout=PATIENCE)
    assert program.returncode == code, (program.returncode, out, errors)
    return errors


def line(program: "subprocess.Popen[str]") -> str:
    assert program.stdout is not None
    text = program.stdout.readline().strip()
    assert text, ended(program)
    return text


def go_on(program: "subprocess.Popen[str]") -> None:
    assert program.stdin is not None
    program.stdin.write("\n")
    program.stdin.flush()


def label_of(url: str) -> str:
    return url.removeprefix("https://").partition(".")[0]
