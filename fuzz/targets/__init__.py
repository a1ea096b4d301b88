"""The fuzz targets, a module each."""
