"""Who is who from frame to frame: mmdeploy's tracker, corrected or bug for bug."""
