"""MMDeploy's SDK folders: read into a spec, and written."""
