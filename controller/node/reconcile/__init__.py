"""The loop: observe, plan, apply. Open `reconciler` first."""
