"""Files written whole or not at all, and the folder for what is kept between runs."""
