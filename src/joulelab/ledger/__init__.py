"""What a project took over its life: jobs and studies of months and machines, added up."""
