"""What the commands of the section "ask" do: one file each."""
