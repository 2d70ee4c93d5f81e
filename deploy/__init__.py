"""How Shoal is brought to machines: units of systemd, the image, the chart, and what a build gives out."""
