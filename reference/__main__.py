"""`python -m reference`: write completions/ and man/ anew, and remove pages of commands that have gone."""

from __future__ import annotations

from reference.files import ROOT, files


def main() -> None:
    """Write what is not as it would be made now, and say so."""
    wanted = files()
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")
    for path in sorted(set((ROOT / "man").glob("*.1")) - set(wanted)):
        path.unlink()
        print(f"removed: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
