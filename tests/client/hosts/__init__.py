"""Tests of several hosts behind one client."""
