"""Reports of studies: a self-contained page, charts as files, tables and findings."""
