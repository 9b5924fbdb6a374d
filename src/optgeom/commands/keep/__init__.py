"""What the commands of the section "keep" do: one file each."""
