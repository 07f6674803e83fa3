"""A hook of MkDocs: the report of a short run of the demo as a page of the site (`make docs` makes that run)."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPORT = Path("build/sample/report.html")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the report and the files that it links to."""
    for path in (REPORT, *(REPORT.parent / "report").iterdir()):
        target = f"sample/{path.relative_to(REPORT.parent)}"
        files.append(File.generated(config, target, abs_src_path=str(path.resolve())))
    return files
