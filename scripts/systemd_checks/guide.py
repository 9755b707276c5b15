"""What the guides say, word for word: so a proof that follows them fails when they say something else."""

from pathlib import Path

from proof import fail

ROOT = Path(__file__).resolve().parents[2]


def lines(page):
    return (ROOT / page).read_text().splitlines()


def command(page, start, **values):
    """The command of a guide, a line of an indented block, that begins so. What stands in capitals is replaced."""
    found = [line.strip() for line in lines(page) if line.startswith("    ") and line.strip().startswith(start)]
    if len(found) != 1:
        fail(f"{page} has {len(found)} commands that begin with {start!r}")
    said = found[0].split("  #")[0].rstrip()
    for name, value in values.items():
        if name not in said:
            fail(f"{page} does not say {name} in {said!r}")
        said = said.replace(name, value)
    return said


def block(page, first):
    """The rest of an indented block behind the line that begins so."""
    text = lines(page)
    start = next((at for at, line in enumerate(text) if line.strip().startswith(first)), None)
    if start is None:
        fail(f"{page} has no {first!r}")
    rest = []
    for line in text[start + 1 :]:
        if not line.startswith("    "):
            break
        rest.append(line.removeprefix("    "))
    return "\n".join(rest) + "\n"
