"""Rendered people with exact keypoints."""
