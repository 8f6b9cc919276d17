"""What a user waits for: scripts that measure it as ratios, side by side and alternating."""
