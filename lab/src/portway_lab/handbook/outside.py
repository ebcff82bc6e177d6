"""Documents outside of docs/ that are pages of the handbook."""

from typing import Final

# The document, and where it is on the site.
PAGE_OF: Final = {
    "README.md": "about.md",
    "client/README.md": "reference/client.md",
    "client/examples/README.md": "reference/examples.md",
    "relay_node/README.md": "reference/relay.md",
    "registry/README.md": "reference/registry.md",
    "deploy/README.md": "reference/deploy.md",
    "deploy/compose/README.md": "reference/compose.md",
    "deploy/helm/README.md": "reference/helm.md",
    "proto/README.md": "reference/proto.md",
    "proto/WIRE.md": "reference/wire.md",
    "CHANGELOG.md": "reference/changelog.md",
    "SECURITY.md": "reference/security.md",
    "CONTRIBUTING.md": "reference/contributing.md",
}
SOURCE_OF: Final = {page: source for source, page in PAGE_OF.items()}
