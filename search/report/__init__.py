"""What people and scripts read: tables, pages, pictures, cards."""
