"""What runs inside the containers, and the recipes that make the images."""
