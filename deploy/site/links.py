"""A hook of mkdocs: links from the documents to files outside docs/ lead to the repository."""

import os
import posixpath
import re

REPOSITORY = "https://github.com/keyward/keyward/blob/main/"
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def on_page_markdown(markdown, page, config, files):
    root = os.path.dirname(config["docs_dir"])
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def target(match):
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        if path.startswith("docs/"):
            return match[0]
        if not os.path.exists(os.path.join(root, path)):
            raise SystemExit(f"{page.file.src_uri}: {match[2]} is not there")
        return match[1] + REPOSITORY + path + match[3]

    return LINK.sub(target, markdown)
