"""Where Linux keeps pages that it compressed instead of writing them to a disk: zram and zswap."""
