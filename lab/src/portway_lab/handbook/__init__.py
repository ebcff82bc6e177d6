"""The handbook: docs/ as a site, and the commands of its pages."""
