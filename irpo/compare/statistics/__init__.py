"""From finished cells to what a report says: figures, tests by group, the data of plots, the viewer's lists."""
