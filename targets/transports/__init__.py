"""Run, push and pull over adb, ssh or here, with a deadline on everything."""
