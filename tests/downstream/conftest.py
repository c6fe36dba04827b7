"""The packages here are no tests of ours: they are built, installed and tested elsewhere."""

collect_ignore_glob = ["plugins_of_*"]
