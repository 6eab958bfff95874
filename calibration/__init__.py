"""Host room: images in. Rendered people with exact keypoints, and the user's own pictures."""
