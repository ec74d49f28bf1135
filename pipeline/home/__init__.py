"""What lies in the home folder and in ML Metadata: folders, runs, lineage, backups, removal of what is old."""
