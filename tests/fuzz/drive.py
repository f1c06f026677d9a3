"""Coverage-guided fuzzing of one target, for as long as one likes: ``python tests/fuzz/drive.py TARGET [SECONDS]``.

Needs ``pip install 'pyunionfs[fuzz]'``. It begins with the target's seeds and its corpus;
an input that fails is written to ``corpus/TARGET/``, where the tests replay it from then on: commit it with the
fix. Interesting inputs that do not fail are kept in ``.fuzz/TARGET`` of the working directory for the next time.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "image"), str(HERE.parents[1])]


def main() -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("pip install 'pyunionfs[fuzz]'")
    with atheris.instrument_imports(include=["pyunionfs"]):
        from targets import TARGETS
    from mutations import rechecksummed

    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\nTargets: {', '.join(TARGETS)}")
    name, seconds = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "60"
    target = TARGETS[name]
    kept = Path(".fuzz") / name
    kept.mkdir(parents=True, exist_ok=True)
    found = HERE / "corpus" / name
    found.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (kept / f"seed{number}").write_bytes(seed)
    limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=1500", "-max_len=65536"]

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        """libFuzzer's own, but a tar header that it changed is mostly given its right checksum again."""
        changed: bytes = atheris.Mutate(data, size)
        return rechecksummed(changed) if seed % 4 else changed

    arguments = [sys.argv[0], *limits, f"-artifact_prefix={found}/", str(kept), str(found)]
    atheris.Setup(arguments, target.check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
